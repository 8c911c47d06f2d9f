"""Where things are that several tests need."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
"""Of the repository."""

PHOTO = ROOT / "demo" / "photo.jpg"

SHARED = ROOT.parent / "shared"
"""Pictures and weights that are too large for the repository; tests that need them are skipped where they are not."""
