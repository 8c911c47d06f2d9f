"""Alembic's folder: how the tables of `database.py` came to be. One file per change in `versions/`."""
