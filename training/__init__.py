"""How the bundled weights are made. See README.md."""
