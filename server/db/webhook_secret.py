"""The server's own secret, from which the keys that callers verify webhooks with are derived."""

import base64
import contextlib
import hashlib
import hmac
import os
import secrets

from server.config import Config
from server.files import make_private_folder


def load_secret(config: Config) -> bytes:
    """The setting, or else the data folder's file, made on first use and readable by its owner only."""
    if config.secret is not None:
        return config.secret.get_secret_value().encode()
    path = config.data_dir / "secret"
    if not path.exists():
        make_private_folder(path.parent)
        # Written beside, then linked: of several processes one wins, and none reads a file that is not written yet.
        own = path.with_name(f".secret.{secrets.token_hex(8)}")
        with os.fdopen(os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_hex(32).encode())
        with contextlib.suppress(FileExistsError):
            os.link(own, path)
        own.unlink()
    return path.read_bytes()


def webhook_secret(secret: bytes, owner: str) -> str:
    """The secret that one caller verifies with, in the form the vendors write it: `whsec_…`."""
    derived = hmac.new(secret, f"webhook:{owner}".encode(), hashlib.sha256).digest()
    return "whsec_" + base64.b64encode(derived).decode()
