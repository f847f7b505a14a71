"""The API reference as one page that loads nothing else, so that it works without internet access."""

from collections.abc import Iterator
from html import escape
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.5rem; } code, pre { font: 14px/1.5 ui-monospace, monospace; }
pre { overflow-x: auto; padding: .75rem; border: 1px solid #8886; border-radius: .4rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid #8884; }
.method { font-weight: 700; text-transform: uppercase; }
"""

EXAMPLE = """curl -F image=@photo.jpg http://127.0.0.1:8080/v1/emotions
curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' -H 'Accept: image/jpeg' \\
  http://127.0.0.1:8080/v1/emotions -o annotated.jpg"""


async def docs_page(request: Request) -> HTMLResponse:
    """Serve ``/docs``: every route, parameter, response and field, rendered from the OpenAPI document."""
    app: FastAPI = request.app
    return HTMLResponse("".join(render(app.openapi())))


def render(document: dict[str, Any]) -> Iterator[str]:
    """Render an OpenAPI document as HTML, piece by piece."""
    info = document["info"]
    title = escape(f"{info['title']} {info['version']}")
    yield "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
    yield "<meta name='viewport' content='width=device-width, initial-scale=1'>"
    yield f"<title>{title}: API</title><style>{STYLE}</style></head><body><h1>{title}</h1>"
    yield f"<p>{escape(info['description'])}</p>"
    yield "<p>The same as an OpenAPI document: <a href='/openapi.json'>openapi.json</a></p>"
    yield f"<pre>{escape(EXAMPLE)}</pre>"
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield from _operation(path, method, operation)
    for path, stream in document["x-websockets"].items():
        yield from _stream(path, stream)
    yield "<h2 id='schemas'>Fields</h2>"
    for name, schema in document["components"]["schemas"].items():
        yield from _schema(name, schema)
    yield "</body></html>"


def _operation(path: str, method: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f"<h2><span class='method'>{escape(method)}</span> <code>{escape(path)}</code></h2>"
    yield f"<p><strong>{escape(operation.get('summary', ''))}.</strong> "
    yield f"{escape(operation.get('description', ''))}</p>"
    if "requestBody" in operation:
        kinds = ", ".join(f"<code>{escape(kind)}</code>" for kind in operation["requestBody"]["content"])
        yield f"<p>Body: {escape(operation['requestBody']['description'])} {kinds}</p>"
    yield from _parameters(operation)
    answers = (
        (
            f"<code>{escape(status)}</code>",
            "<br>".join(escape(kind) for kind in answer.get("content", {})),
            escape(answer["description"]),
        )
        for status, answer in operation["responses"].items()
    )
    yield from _table(("Status", "Content", "Meaning"), answers)


def _parameters(operation: dict[str, Any]) -> Iterator[str]:
    if operation.get("parameters"):
        rows = (
            (f"<code>{escape(p['name'])}</code>", _kind(p["schema"]), escape(p.get("description", "")))
            for p in operation["parameters"]
        )
        yield from _table(("Parameter", "Type", "Meaning"), rows)


def _stream(path: str, stream: dict[str, Any]) -> Iterator[str]:
    yield f"<h2><span class='method'>WS</span> <code>{escape(path)}</code></h2>"
    yield f"<p><strong>{escape(stream['summary'])}.</strong> {escape(stream['description'])}</p>"
    yield f"<pre>{escape(stream['example'])}</pre>"
    sent = ", ".join(f"<code>{escape(kind)}</code>" for kind in stream["sent"])
    received = " or ".join(_kind(schema) for schema in stream["received"]["application/json"]["schema"]["oneOf"])
    yield f"<p>Sent: {sent}. Received: {received}.</p>"
    yield from _parameters(stream)
    codes = ((f"<code>{code}</code>", escape(reason)) for code, reason in stream["closeCodes"].items())
    yield from _table(("Close code", "Meaning"), codes)


def _schema(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f"<h3 id='{escape(name)}'>{escape(name)}</h3><p>{escape(schema.get('description', ''))}</p>"
    rows = (
        (f"<code>{escape(field)}</code>", _kind(of), escape(of.get("description", "")))
        for field, of in schema.get("properties", {}).items()
    )
    yield from _table(("Field", "Type", "Meaning"), rows)


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    yield "<table><tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>"
    for row in rows:
        yield "<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>"
    yield "</table>"


def _kind(schema: dict[str, Any]) -> str:
    """Describe a JSON schema in a word or two, with its limits."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f"<a href='#{name}'>{name}</a>"
    if "anyOf" in schema:
        return " or ".join(_kind(option) for option in schema["anyOf"] if option.get("type") != "null")
    if schema.get("type") == "array":
        return f"list of {_kind(schema['items'])}"
    limits = [f"{sign} {schema[key]:g}" for key, sign in (("minimum", "≥"), ("maximum", "≤")) if key in schema]
    return escape(" ".join([schema.get("type", "any"), *limits]))
