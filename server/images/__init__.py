"""Picture files: opened safely, their colours and metadata understood, and written again. Read `picture.py` first for
the way in, `save.py` for the way out; tests/test_layers.py has the order.

Neither torch nor FastAPI in here; `bleed.py`, `png.py` and `save.py` are the worker's.
"""
