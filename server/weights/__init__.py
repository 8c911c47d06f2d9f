"""The networks' weights: which exist, where they are stored, which are used. Start with `catalog.py`. Needs no
torch."""
