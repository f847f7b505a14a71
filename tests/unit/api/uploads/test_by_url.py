"""Photos by URL. The tests resolve the names of hosts; everything else is real: TLS, HTTP, the checks."""

import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from https_server import Answer, https_server, make_certificate

from service.api.uploads import by_url
from service.api.uploads.body import SizeLimit
from service.api.uploads.by_url import PhotoFetcher, is_public
from service.budget import Budget
from service.errors import FetchFailed, Overloaded, UploadTooLarge, UrlRefused

pytestmark = pytest.mark.anyio

PHOTO = b"\xff\xd8\xff a photo"
HOST = "photos.example.org"
STORE = "s3.eu-central-1.amazonaws.com"
JPEG = {"Content-Type": "image/jpeg"}

Fetch = Callable[..., Awaitable[bytes]]
Serve = Callable[[Callable[[str], Answer]], AbstractAsyncContextManager[Fetch]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def resolving(*addresses: str) -> Callable[[str, int], Awaitable[Sequence[str]]]:
    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return addresses

    return resolve


async def fetched(fetcher: PhotoFetcher, url: str, *, max_bytes: int = 10_000, memory: int = 10_000) -> bytes:
    budget = Budget(memory, what="memory", setting="TANDEM_MAX_HELD_BYTES")
    photo = await fetcher.fetch(url, budget, SizeLimit(max_bytes))
    assert budget.used == len(photo)
    return photo


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    return make_certificate(tmp_path_factory.mktemp("tls"), HOST, STORE)


@pytest.fixture
def serve(certificates: tuple[ssl.SSLContext, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Start a server of HOST on this machine; its port stands for 443, and its address counts as public."""

    @asynccontextmanager
    async def serve(answer: Callable[[str], Answer]) -> AsyncIterator[Fetch]:
        async with https_server(certificates[0], answer) as port:
            monkeypatch.setattr(by_url, "HTTPS_PORT", port)
            options: dict[str, Any] = {"resolve": resolving("127.0.0.1"), "is_allowed": lambda _: True}

            async def fetch(
                path: str, *, hosts: Sequence[str] = (HOST,), timeout_s: float = 20, **more: Any
            ) -> bytes:
                fetcher = PhotoFetcher(hosts, timeout_s=timeout_s, tls=certificates[1], **options)
                return await fetched(fetcher, path if "://" in path else f"https://{HOST}:{port}{path}", **more)

            yield fetch

    return serve


async def test_fetches_a_photo(serve: Serve) -> None:
    asked = []

    def answer(path: str) -> Answer:
        asked.append(path)
        return "200 OK", JPEG, PHOTO

    async with serve(answer) as fetch:
        assert await fetch("/a%20b.jpg?size=large") == PHOTO
        assert await fetch("/", hosts=["other.example", "*.example.org"]) == PHOTO
    assert asked == ["/a%20b.jpg?size=large", "/"]


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (("404 Not Found", JPEG, PHOTO), FetchFailed, "answered 404"),
        (("200 OK", {"Content-Type": "text/html"}, b"<html>"), FetchFailed, "text/html"),
        (("200 OK", {}, PHOTO), FetchFailed, "not an image"),
        (("200 OK", JPEG, b""), FetchFailed, "empty"),
        (("200 OK", {**JPEG, "Content-Encoding": "gzip"}, b"\x1f\x8b"), FetchFailed, "gzip"),
        (("200 OK", {**JPEG, "Content-Length": "10001"}, b"..."), UploadTooLarge, "limit"),
        (("200 OK", JPEG, bytes(10_001)), UploadTooLarge, "limit"),
        (("200 OK", JPEG, b"..."), FetchFailed, "TANDEM_FETCH_TIMEOUT_S"),
        (("200 OK", {**JPEG, "Content-Length": "999"}, b"short"), FetchFailed, "fetched"),
        (("302 Found", {"Location": "https://elsewhere.example/a.jpg"}, b""), UrlRefused, "elsewhere.example"),
        (("302 Found", {"Location": f"http://{HOST}/a.jpg"}, b""), UrlRefused, "scheme 'http'"),
        (("302 Found", {"Location": "https://169.254.169.254/latest"}, b""), UrlRefused, "169.254.169.254"),
        (("302 Found", {"Location": "file:///etc/passwd"}, b""), UrlRefused, "scheme 'file'"),
        (("302 Found", {"Location": f"https://{HOST}:22/"}, b""), UrlRefused, "port 22"),
        (("302 Found", {"Location": "/again"}, b""), FetchFailed, "more than 3 times"),
        (("garbage", {}, b""), FetchFailed, "fetched"),
    ],
)
async def test_other_answers_are_refused(serve: Serve, answer: Answer, error: type[Exception], says: str) -> None:
    async with serve(lambda _: answer) as fetch:
        with pytest.raises(error, match=says):
            await fetch("/a.jpg", timeout_s=1 if answer[2] == b"..." else 20)


async def test_follows_redirections_within_the_hosts(serve: Serve) -> None:
    def answer(path: str) -> Answer:
        return ("302 Found", {"Location": "/b"}, b"") if path == "/a" else ("200 OK", JPEG, PHOTO)

    async with serve(answer) as fetch:
        assert await fetch("/a") == PHOTO


async def test_memory_is_limited(serve: Serve) -> None:
    async with serve(lambda _: ("200 OK", JPEG, bytes(2000))) as fetch:
        with pytest.raises(Overloaded):
            await fetch("/", memory=1999)


async def test_the_certificate_must_have_the_name(serve: Serve) -> None:
    async with serve(lambda _: ("200 OK", JPEG, PHOTO)) as fetch:
        with pytest.raises(FetchFailed, match="certificate"):
            await fetch(f"https://other.example.net:{by_url.HTTPS_PORT}/", hosts=["other.example.net"])


@pytest.mark.parametrize(
    "url",
    [
        f"http://{HOST}/",
        f"ftp://{HOST}/",
        "file:///etc/passwd",
        "gopher://photos.example.org/",
        f"https://{HOST}:8443/",
        f"https://user@{HOST}/",
        f"https://{HOST}@evil.example/",
        f"https://evil.example#@{HOST}/",
        f"https://evil.example\\@{HOST}/",
        f"https://{HOST}.evil.example/",
        "https://evilphotos.example.org/",
        "https://example.org/",
        "https://127.0.0.1/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://[::1]/",
        "https://localhost/",
        "https://ⓟhotos.example.org/",
        f"https://{HOST}\r\nX: y/",
        f"https://{HOST}/\t",
        "https://",
        "//photos.example.org/",
        "photos.example.org/a.jpg",
        "",
        f"https://{HOST}/{'a' * 5000}",
        "https://photos.example.org:99999/",
        "s3://faces/a.jpg",
    ],
)
async def test_other_urls_are_refused_without_a_connection(url: str) -> None:
    async def resolve(host: str, _port: int) -> Sequence[str]:
        pytest.fail(f"{host} was resolved")

    with pytest.raises(UrlRefused):
        await fetched(PhotoFetcher([HOST], resolve=resolve), url)


PRIVATE = [
    "127.0.0.1",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",  # noqa: S104
    "224.0.0.1",
    "255.255.255.255",
    "192.0.2.1",
    "::1",
    "::",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "fd00::1",
    "fe80::1",
    "fe80::1%eth0",
    "ff02::1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
]


@pytest.mark.parametrize("address", PRIVATE)
async def test_a_name_with_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))
    for addresses in ((address,), ("93.184.215.14", address)):
        fetcher = PhotoFetcher([HOST], resolve=resolving(*addresses))
        with pytest.raises(UrlRefused, match="not public"):
            await fetched(fetcher, f"https://{HOST}/")


@pytest.mark.parametrize(
    "address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "64:ff9b::5db8:d70e"]
)
def test_public_addresses(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


async def test_the_address_that_was_checked_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server for names that answers differently the second time changes nothing."""
    answers = iter([["93.184.215.14"], ["127.0.0.1"]])
    connected = []

    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return next(answers)

    fetcher = PhotoFetcher([HOST], resolve=resolve)

    async def connect_tcp(host: str, port: int, *_: object) -> None:
        connected.append((host, port))
        raise OSError("no network in this test")

    monkeypatch.setattr(fetcher._network._network, "connect_tcp", connect_tcp)
    with pytest.raises(FetchFailed):
        await fetched(fetcher, f"https://{HOST}/")
    assert connected == [("93.184.215.14", 443)]


async def test_an_object_is_fetched_by_a_signed_url(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    signed = urlsplit(PhotoFetcher(["s3://faces"])._presign("s3://faces/a.jpg"))
    assert (signed.scheme, signed.netloc, signed.path) == ("https", "faces.s3.amazonaws.com", "/a.jpg")
    asked = []

    def answer(path: str) -> Answer:
        asked.append(path)
        return "200 OK", {"Content-Type": "binary/octet-stream"}, PHOTO

    async with serve(answer) as fetch:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"https://{STORE}:{by_url.HTTPS_PORT}")
        assert await fetch("s3://faces/a folder/ä.jpg", hosts=["s3://faces"]) == PHOTO
        for refused in ("s3://others/a.jpg", "s3://faces", f"https://{STORE}:{by_url.HTTPS_PORT}/faces/a.jpg"):
            with pytest.raises(UrlRefused):
                await fetch(refused, hosts=["s3://faces"])
    (path,) = asked
    assert path.startswith("/faces/a%20folder/%C3%A4.jpg?")
    assert "X-Amz-Signature=" in path
