"""Structured logs: one JSON object per line. Photos are never logged."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from service.observability.request_context import current_request

REQUEST_LOGGER = "tandem.requests"


class JsonFormatter(logging.Formatter):
    """Formats a record as JSON: time, level, logger, message, ids, and the fields in ``extra={"fields": ...}``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line of JSON."""
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_request_ids(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


def _request_ids() -> dict[str, str]:
    """Return the ids of the current request, whichever logger is used."""
    context = current_request.get()
    if context is None:
        return {}
    trace = context.trace
    return {"request_id": context.request_id, "trace_id": trace.trace_id, "span_id": trace.span_id}


def configure_logging(level: str) -> None:
    """Log everything in this process to stderr as JSON. Meant for the command line, not for use as a library."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(logging.INFO, logging.getLevelNamesMapping()[level.upper()]))
    # Only our loggers go below info: at debug, libraries log API keys in headers, WebSocket frames and EXIF data.
    logging.getLogger("tandem").setLevel(level.upper())
