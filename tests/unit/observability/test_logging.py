import json
import logging
import sys

from service.observability.logging import JsonFormatter


def test_a_record_is_one_line_of_json_with_its_fields() -> None:
    record = logging.LogRecord("tandem.requests", logging.INFO, "f.py", 1, "two\nlines %s", ("é",), None)
    record.fields = {"faces": 2}
    line = JsonFormatter().format(record)
    assert "\n" not in line
    entry = json.loads(line)
    assert entry.pop("time").endswith("+00:00")
    assert entry == {"level": "info", "logger": "tandem.requests", "message": "two\nlines é", "faces": 2}


def test_a_traceback_is_logged() -> None:
    try:
        raise ValueError("oh")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "f.py", 1, "m", (), sys.exc_info())
    assert "ValueError: oh" in json.loads(JsonFormatter().format(record))["traceback"]
