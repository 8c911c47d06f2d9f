"""Structured logs to standard error: JSON lines, or readable text on a terminal."""

import logging
import sys

import structlog


def configure_logs(level: int = logging.INFO) -> None:
    """Call it once per process. Records of the standard library's logging (uvicorn, SQLAlchemy) are formatted alike."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    terminal = sys.stderr.isatty()
    plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)  # without variables too
    renderer = plain if terminal else structlog.processors.JSONRenderer()
    final: list[structlog.typing.Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if not terminal:  # the console renderer formats tracebacks itself
        # NOTE: without the values of variables, which are the default: they contain callers' keys and pictures.
        transformer = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        final.append(structlog.processors.ExceptionRenderer(transformer))
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[*final, renderer]))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("uvicorn.access", "alembic", "httpx", "httpcore", "PIL", "mcp"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # libvips can warn hundreds of times about one damaged file; the error that refuses it is enough.
    logging.getLogger("pyvips").setLevel(logging.ERROR)
