"""Our own log: one JSON object a line on stderr, as Cloud Logging reads it (severity, message, time).

Nothing of a review, a path or a token is ever logged.
"""

from __future__ import annotations

import json
import logging
import sys
import time

__all__ = ["configure"]

# A full disk fails every review: say so once in this many seconds, with how often.
REPEAT_SECONDS = 5.0


def configure(level: str) -> None:
    """Send this program's and uvicorn's log to stderr, from ``level`` on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(RepeatFilter())
    ours = logging.getLogger("audit")
    ours.setLevel(level.upper())
    for logger in (ours, logging.getLogger("uvicorn.error")):
        logger.handlers = [handler]
        logger.propagate = False
    # uvicorn's own info lines say what our start-up line says better.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)


class JsonFormatter(logging.Formatter):
    """A log record as one line of JSON; ``hint`` and ``details`` given as extras become keys of their own."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry = {
            "severity": record.levelname,
            "message": record.getMessage(),
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "logger": record.name,
        }
        for key in ("hint", "details", "repeated"):
            if (value := getattr(record, key, None)) is not None:
                entry[key] = value
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


class RepeatFilter(logging.Filter):
    """Lets a warning or error through once in `REPEAT_SECONDS`; the next one says how many were held back."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to write ``record``."""
        if record.levelno < logging.WARNING:
            return True
        key = (record.name, str(record.msg))
        last, held_back = self._last.get(key, (-REPEAT_SECONDS, 0))
        if 0 <= record.created - last < REPEAT_SECONDS:  # below 0: the clock was set back
            self._last[key] = (last, held_back + 1)
            return False
        if held_back:
            record.repeated = held_back
        if len(self._last) > 1000:
            self._last.clear()
        self._last[key] = (record.created, 0)
        return True
