"""Measurements. See README.md."""
