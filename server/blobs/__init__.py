"""Where pictures are stored. A new kind of store is one file here and its line in `open_blobs`."""

from server.blobs.base import Blobs
from server.blobs.folder import FolderBlobs
from server.config import Config


def open_blobs(config: Config) -> Blobs:
    """The store that the settings name."""
    return FolderBlobs(config.blobs_dir)
