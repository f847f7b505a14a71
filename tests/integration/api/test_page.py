"""The page's files, served by the gateway."""

import re
from collections.abc import AsyncIterator

import httpx
import pytest
from gateways import gateway

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with gateway(triton_url="127.0.0.1:9") as client:  # the page works without Triton
        yield client


async def test_serves_the_page_and_every_file_it_links_to(client: httpx.AsyncClient) -> None:
    response = await client.get("/")
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    linked = set(re.findall(r'(?:src|href)="(/page/[^"]+)"', response.text))
    documents = {path for path in linked if path.endswith(".html")}
    assert documents == {"/page/model.html", "/page/responsible-use.html"}
    linked -= documents
    assert linked == {"/page/page.css", "/page/page.js", "/page/icon.svg"}
    for name in ("page", "album", "faces", "camera", "large_photos", "live", "film"):
        script = await client.get(f"/page/{name}.js")
        linked |= set(re.findall(r'from "(/page/[^"]+)"', script.text))
    assert {"/page/album.js", "/page/emotions.js", "/page/downloads.js", "/page/frame_stream.js"} <= linked
    kinds = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}
    kinds["jpg"] = "image/jpeg"
    for path in (*linked, "/page/example.jpg"):
        response = await client.get(path)
        assert response.status_code == 200
        assert response.headers["Content-Type"] == kinds[path.rpartition(".")[2]]


@pytest.mark.parametrize(
    ("name", "text"),
    [("responsible-use", "<strong>A label says what a face shows, not what a person"), ("model", 'id="model"')],
)
async def test_serves_documents_as_html(client: httpx.AsyncClient, name: str, text: str) -> None:
    response = await client.get(f"/page/{name}.html")
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert text in response.text
    assert "CONTENT" not in response.text
    for path in re.findall(r'(?:src|href)="(/page/[^"]+)"', response.text):
        assert (await client.get(path)).status_code == 200, path


async def test_the_policy_allows_nothing_inline_and_nothing_from_other_origins(client: httpx.AsyncClient) -> None:
    response = await client.get("/")
    policy = dict(part.partition(" ")[::2] for part in response.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert "unsafe" not in response.headers["Content-Security-Policy"]
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["X-Frame-Options"] == "DENY"
    assert response.headers["Referrer-Policy"] == "no-referrer"
    assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert "camera=(self)" in response.headers["Permissions-Policy"]
    assert "style=" not in response.text
    assert not re.search(r"<script(?![^>]* src=)|\son\w+=|https?://(?!127\.0\.0\.1)", response.text)


async def test_an_unchanged_file_is_not_sent_again(client: httpx.AsyncClient) -> None:
    response = await client.get("/page/page.css")
    assert response.headers["Cache-Control"] == "no-cache"
    again = await client.get("/page/page.css", headers={"If-None-Match": response.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "path", ["/page/", "/page/__init__.py", "/page/../settings.py", "/page/index.html", "/page/document.html"]
)
async def test_serves_nothing_else(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 404


async def test_answers_head_requests(client: httpx.AsyncClient) -> None:
    response = await client.head("/")
    assert response.status_code == 200
    assert response.content == b""
