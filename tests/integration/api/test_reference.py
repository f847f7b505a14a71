"""The files of the API reference; tests/e2e/ opens it in a browser."""

import re
from pathlib import Path

import pytest
from gateways import gateway

from service.api import reference

pytestmark = pytest.mark.anyio


async def test_everything_that_it_links_to_is_served_under_a_strict_policy() -> None:
    async with gateway(triton_url="127.0.0.1:9") as client:  # it works without Triton
        page = await client.get("/docs")
        linked = re.findall(r'(?:src|href)="(/docs/[^"#]+)"', page.text)
        assert len(linked) == 4
        for response in [page, *[await client.get(path) for path in linked]]:
            assert response.status_code == 200
            policy = response.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "script-src 'self';" in policy
            assert "unsafe" not in policy
        for path in ("/docs/LICENSE-swagger-ui", "/docs/__init__.py"):
            assert (await client.get(path)).status_code == 404
    assert not re.search(r"<script(?![^>]* src=)|\son\w+=| style=|https?://", page.text)


def test_swagger_ui_comes_with_its_license() -> None:
    text = (Path(reference.__file__).parent / "LICENSE-swagger-ui").read_text()
    assert "Apache License" in text
    assert "SmartBear" in text
    assert "DOMPurify" in text
