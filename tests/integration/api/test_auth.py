"""API keys, limits and cross-origin requests, with a real Triton."""

import asyncio
from pathlib import Path

import pytest
from gateways import gateway, post, problem
from photos import astronaut, encoded

from service.api_keys import create_key
from service.triton.server import LocalTriton

pytestmark = pytest.mark.anyio

PHOTO = encoded(astronaut().resize((128, 128)))


async def test_without_keys_the_api_is_open(toy_triton: LocalTriton) -> None:
    async with gateway(triton_url=toy_triton.grpc_url) as client:
        response = await post(client, PHOTO)
    assert response.status_code == 200
    assert "RateLimit" not in response.headers


async def test_keys_of_settings_and_file_are_accepted_in_either_header(
    toy_triton: LocalTriton, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mine, other = create_key("mine"), create_key("other")
    file = tmp_path / "keys"
    file.write_text(f"# keys\n{other.line}\n")
    settings = {"triton_url": toy_triton.grpc_url, "api_keys": (mine.line,), "api_keys_file": file}
    with caplog.at_level("INFO"):
        async with gateway(**settings) as client:
            for key in (mine, other):
                assert (await post(client, PHOTO, **{"X-API-Key": key.secret})).status_code == 200
                assert (await post(client, PHOTO, Authorization=f"Bearer {key.secret}")).status_code == 200
            for headers in ({}, {"X-API-Key": "no"}, {"Authorization": "Basic eDp5"}, {"X-API-Key": mine.line}):
                response = await post(client, PHOTO, **headers)
                problem(response, 401, "unauthorized")
                assert response.headers["WWW-Authenticate"] == 'Bearer realm="tandem"'
            problem(await client.get("/v1/model"), 401, "unauthorized")
            for path in ("/livez", "/readyz", "/metrics", "/openapi.json", "/docs", "/"):
                assert (await client.get(path)).status_code == 200
    fields = [record.__dict__.get("fields", {}) for record in caplog.records]
    assert [entry["caller"] for entry in fields if "caller" in entry] == ["mine", "mine", "other", "other"]
    assert mine.secret not in str([record.__dict__ for record in caplog.records])


async def test_the_rate_is_limited_for_each_key(toy_triton: LocalTriton) -> None:
    keys = [create_key("a"), create_key("b")]
    lines = tuple(key.line for key in keys)
    async with gateway(triton_url=toy_triton.grpc_url, api_keys=lines, rate_limit=3, rate_window_s=3600) as client:
        a, b = ({"X-API-Key": key.secret} for key in keys)
        first = await post(client, PHOTO, **a)
        assert first.headers["RateLimit-Policy"] == '"photos";q=3;w=3600'
        assert first.headers["RateLimit"].startswith('"photos";r=2;t=1')
        batch = await client.post("/v1/emotions/batch", files=[("images", PHOTO)] * 2, headers=a)
        assert len(batch.text.splitlines()) == 2
        response = await post(client, PHOTO, **a)
        assert "3 photos in 3600 s (TANDEM_RATE_LIMIT)" in problem(response, 429, "too-many-requests")
        assert 0 < int(response.headers["Retry-After"]) <= 1200
        assert response.headers["RateLimit"].startswith('"photos";r=0;')
        assert (await post(client, PHOTO, **b)).status_code == 200


async def test_an_open_api_can_be_limited_by_address(toy_triton: LocalTriton) -> None:
    async with gateway(triton_url=toy_triton.grpc_url, concurrent_limit=2, workers=1) as client:
        responses = await asyncio.gather(*(post(client, PHOTO) for _ in range(5)))
        assert sorted(response.status_code for response in responses) == [200, 200, 429, 429, 429]
        refused = next(response for response in responses if response.status_code == 429)
        assert refused.headers["Retry-After"] == "1"
        assert refused.headers["RateLimit-Policy"] == '"concurrent";q=2;qu="concurrent-requests"'
        assert (await post(client, PHOTO)).status_code == 200


async def test_pages_of_other_origins_are_allowed_only_if_configured(toy_triton: LocalTriton) -> None:
    origin = {"Origin": "https://example.org"}
    preflight = {**origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
    async with gateway(triton_url=toy_triton.grpc_url) as client:
        assert "Access-Control-Allow-Origin" not in (await post(client, PHOTO, **origin)).headers
        refused = await client.options("/v1/emotions", headers=preflight)
        assert not any(name.startswith("access-control-") for name in refused.headers)
    key = create_key("page")
    settings = {"api_keys": (key.line,), "cors_origins": ("https://example.org",)}
    async with gateway(triton_url=toy_triton.grpc_url, **settings) as client:
        allowed = await client.options("/v1/emotions", headers=preflight)
        assert allowed.status_code == 200
        assert allowed.headers["Access-Control-Allow-Origin"] == "https://example.org"
        refused = await post(client, PHOTO, **origin)
        assert problem(refused, 401, "unauthorized")
        assert refused.headers["Access-Control-Allow-Origin"] == "https://example.org"
        other = await client.options("/v1/emotions", headers={**preflight, "Origin": "https://example.com"})
        assert "Access-Control-Allow-Origin" not in other.headers


async def test_health_routes_are_not_on_the_main_port_if_they_have_their_own(toy_triton: LocalTriton) -> None:
    async with gateway(triton_url=toy_triton.grpc_url, operations_port=0) as client:
        for path in ("/livez", "/readyz", "/metrics"):
            problem(await client.get(path), 404, "not-found")


async def test_a_slash_too_many_does_not_redirect_to_the_callers_host(toy_triton: LocalTriton) -> None:
    async with gateway(triton_url=toy_triton.grpc_url) as client:
        for path in ("/v1/emotions/", "/v1/model/", "/docs/", "/livez/"):
            response = await client.get(path, headers={"Host": "evil.example"})
            assert response.status_code == (405 if "emotions" in path else 200)
            assert "evil.example" not in f"{response.headers} {response.text}"
