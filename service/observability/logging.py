"""Structured logs: one JSON object a line, never a photo."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from service.observability.tracing import current

REQUEST_LOGGER = "tandem.requests"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the fields given as ``extra={"fields": …}``."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON."""
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_exchange_fields(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


def _exchange_fields() -> dict[str, str]:
    """The ids of the request that a record was made in, whoever made it."""
    exchange = current.get()
    if exchange is None:
        return {}
    request_id = exchange.scope.get("state", {}).get("request_id")
    ids = {"trace_id": exchange.trace.trace_id, "span_id": exchange.trace.span_id}
    return {"request_id": request_id, **ids} if request_id else ids


def configure_logging(level: str) -> None:
    """Send the whole process's log to standard error as JSON; for the command line, not for a library."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(logging.INFO, logging.getLevelNamesMapping()[level.upper()]))
    # Only ours: at debug, libraries tell headers with their keys, frames of streams, and what EXIF holds.
    logging.getLogger("tandem").setLevel(level.upper())
