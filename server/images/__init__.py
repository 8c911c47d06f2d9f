"""Picture files: read safely, with their colours and metadata, and written again. Start with `read/open.py` and
`write/save.py`.

Nothing here imports torch or FastAPI. Only the worker imports `write/`.
"""
