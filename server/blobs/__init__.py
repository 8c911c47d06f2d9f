"""Where pictures are stored. A new kind of store is one file here and its line in `open_blobs`."""

from server.blobs.base import Blobs
from server.blobs.bucket import BucketBlobs, open_bucket
from server.blobs.folder import FolderBlobs
from server.config import Config


def open_blobs(config: Config) -> Blobs:
    """The store that the settings name. Raises BadConfig."""
    if config.blob_url is not None:
        bucket = open_bucket(config.blob_url, config.blob_endpoint)
        return BucketBlobs(bucket, config.blobs_dir, links=config.blob_links == "direct")
    return FolderBlobs(config.blobs_dir)
