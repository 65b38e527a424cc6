"""What the service writes about itself, to standard error: one event a line.

structlog's own events and those of the standard library (uvicorn, psycopg) take the same
way and look alike; where a request caused one, it bears the request's id and the caller's
address. Bodies, keys and addresses with passwords are never logged: for that reason stack traces
come without the values of local variables, which both renderers would show if they were let.
"""

import logging
import sys

import structlog

from counterfoil.server.api.middleware import tell_whose
from counterfoil.server.core.settings import LogFormat, LogLevel


def set_up(log_format: LogFormat, log_level: LogLevel) -> None:
    """Configure logging for this process. Calling it again changes the configuration."""
    shared: list[structlog.typing.Processor] = [
        tell_whose,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[structlog.typing.Processor] = (
        [
            structlog.processors.ExceptionRenderer(
                structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
            ),
            structlog.processors.JSONRenderer(),
        ]
        if log_format == "json"
        else [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(log_level.upper())
    # The pool tells of each connection that it lends, which would be several lines a request.
    logging.getLogger("psycopg.pool").setLevel(max(logging.WARNING, root.level))
    for chatty in ("asyncio", "uvicorn.error"):
        logging.getLogger(chatty).setLevel(max(logging.INFO, root.level))
