"""The server's own secret, from which each caller's key for verifying webhooks is derived."""

import base64
import contextlib
import hashlib
import hmac
import os
import secrets

from pydantic import SecretStr
from sqlalchemy import Engine

from server.config import Config
from server.db.shared import shared_value
from server.files import make_private_folder


def load_secret(config: Config) -> bytes:
    """The setting, or else the data folder's file, created on first use and readable only by its owner."""
    if config.secret is not None:
        return config.secret.get_secret_value().encode()
    path = config.data_dir / "secret"
    if not path.exists():
        make_private_folder(path.parent)
        # Written under another name, then linked: one of several processes wins, and none reads an unfinished file.
        own = path.with_name(f".secret.{secrets.token_hex(8)}")
        with os.fdopen(os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_hex(32).encode())
        with contextlib.suppress(FileExistsError):
            os.link(own, path)
        own.unlink()
    return path.read_bytes()


def with_shared_secret(config: Config, engine: Engine) -> Config:
    """The same settings; on PostgreSQL with the secret of all machines that share the database, unless one is set. The
    first machine makes it: that of its data folder."""
    if config.secret is not None or engine.dialect.name == "sqlite":
        return config
    secret = shared_value(engine, "webhook_secret", lambda: load_secret(config).decode())
    return config.model_copy(update={"secret": SecretStr(secret)})


def webhook_secret(secret: bytes, owner: str) -> str:
    """The secret with which one caller verifies, in the vendors' form: `whsec_…`."""
    derived = hmac.new(secret, f"webhook:{owner}".encode(), hashlib.sha256).digest()
    return "whsec_" + base64.b64encode(derived).decode()
