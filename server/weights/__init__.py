"""Weights: which there are, where they lie, how they get here. Read `catalog.py` first; tests/test_layers.py has the
order. No torch in here but in `indexer.py`.
"""
