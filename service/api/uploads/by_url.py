"""Fetch a photo from a host or a bucket that the operator has named. Off unless there is one.

A URL is written by a caller, and the gateway stands inside a network (server-side request forgery). So only named
hosts are fetched from, over HTTPS on its own port, and never from an address that is not public: the name is
resolved once, and the connection is made to the address that was checked. Redirections are checked like the first
URL.
"""

import asyncio
import io
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import SplitResult, urljoin, urlsplit

import httpcore  # noqa: TID251 - the one module that makes requests on a caller's behalf

from service import __version__
from service.api.uploads.body import SizeLimit
from service.budget import Budget
from service.errors import ExtraMissing, FetchFailed, UrlRefused, install_command
from service.settings import Settings

HTTPS_PORT: Final = 443
MAX_URL_LENGTH: Final = 4096
MAX_REDIRECTS: Final = 3
REDIRECTIONS: Final = (301, 302, 303, 307, 308)

MEDIA_TYPES: Final = ("application/octet-stream", "binary/octet-stream")
"""Types other than image/* that stores give files of which they know nothing."""

PRESIGNED_S: Final = 60

NAT64: Final = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


def is_public(address: Address) -> bool:
    """Whether an address is of the public internet, also if it is an IPv4 address in an IPv6 one."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id:
            return False
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1])
        if address in NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner:
            return is_public(inner)
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


async def resolve_name(host: str, port: int) -> list[str]:
    """Return the addresses of a host."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to the addresses of a name only if all of them may be used. TLS still verifies the name."""

    def __init__(self, resolve: Resolve, is_allowed: Callable[[Address], bool]) -> None:
        self._resolve = resolve
        self._is_allowed = is_allowed
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Resolve the host, check its addresses, and connect to the first that answers.

        Raises:
            UrlRefused: One of its addresses is not public.
            FetchFailed: It has none, or none answers.
        """
        try:
            addresses = await self._resolve(host, port)
        except OSError:
            raise FetchFailed(f"the host {host!r} cannot be resolved") from None
        if not addresses or not all(self._is_allowed(ipaddress.ip_address(each)) for each in addresses):
            raise UrlRefused(f"the host {host!r} has an address that is not public")
        for address in addresses:
            try:
                return await self._network.connect_tcp(address, port, timeout, local_address)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        raise FetchFailed(f"the host {host!r} does not accept connections")

    async def sleep(self, seconds: float) -> None:
        """Wait between attempts; none is made."""
        await self._network.sleep(seconds)


class PhotoFetcher:
    """Fetches photos from the named hosts (``example.org``, ``*.example.org``) and buckets (``s3://bucket``)."""

    def __init__(
        self,
        hosts: Sequence[str],
        *,
        timeout_s: float = 10,
        max_fetches: int = 16,
        resolve: Resolve = resolve_name,
        is_allowed: Callable[[Address], bool] = is_public,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Start with nothing fetched. The last three arguments are for tests.

        Raises:
            ExtraMissing: A bucket is named, and the extra s3 is not installed.
        """
        self._hosts = [each for each in hosts if not each.startswith("s3://")]
        self._buckets = [each.removeprefix("s3://") for each in hosts if each.startswith("s3://")]
        self._timeout_s = timeout_s
        self._network = CheckedNetwork(resolve, is_allowed)
        self._tls = tls or ssl.create_default_context()
        self._fetches = Budget(max_fetches, what="photos being fetched", setting="TANDEM_MAX_FETCHES")
        self._s3 = _s3_client() if self._buckets else None

    @classmethod
    def of(cls, settings: Settings) -> "PhotoFetcher | None":
        """Return the fetcher that the settings ask for; None if they name no hosts."""
        if not settings.fetch_hosts:
            return None
        return cls(settings.fetch_hosts, timeout_s=settings.fetch_timeout_s, max_fetches=settings.max_fetches)

    async def fetch(self, url: str, memory: Budget, limit: SizeLimit) -> bytes:
        """Fetch a photo.

        Raises:
            UrlRefused: The URL, or where it redirects to, may not be fetched.
            FetchFailed: The server does not answer, answers something else than an image, or takes too long.
            UploadTooLarge: The photo exceeds ``limit``.
            Overloaded: There is no memory for it, or too many photos are being fetched.
        """
        if len(url) > MAX_URL_LENGTH:
            raise UrlRefused(f"the URL has {len(url):,} characters; the limit is {MAX_URL_LENGTH:,}")
        with self._fetches.reserved():
            try:
                async with asyncio.timeout(self._timeout_s):
                    return await self._follow(url, memory, limit)
            except TimeoutError:
                raise FetchFailed(
                    f"the photo did not arrive within {self._timeout_s:g} s (TANDEM_FETCH_TIMEOUT_S)"
                ) from None
            except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError) as error:
                reason = str(error)[:200] or type(error).__name__
                raise FetchFailed(f"the photo cannot be fetched: {reason}") from None

    async def _follow(self, url: str, memory: Budget, limit: SizeLimit) -> bytes:
        presigned = None
        if url.startswith("s3://"):
            url = presigned = await asyncio.to_thread(self._presign, url)
        for _ in range(1 + MAX_REDIRECTS):
            if url != presigned:  # where the operator's own settings say that the bucket is
                self._check(urlsplit_or_refuse(url))
            async with self._get(url) as response:
                if response.status not in REDIRECTIONS:
                    return await _read(response, memory, limit)
                url = urljoin(url, header(response, b"location"))
        raise FetchFailed(f"the URL redirects more than {MAX_REDIRECTS} times")

    def _check(self, target: SplitResult) -> None:
        """Check whether a URL may be fetched."""
        if target.scheme != "https":
            raise UrlRefused(f"the scheme {target.scheme[:20]!r} is not fetched; https and s3 are")
        if target.username is not None or target.password is not None:
            raise UrlRefused("a URL with a user name or a password is not fetched")
        if (target.port or HTTPS_PORT) != HTTPS_PORT:
            raise UrlRefused(f"the port {target.port} is not fetched from; {HTTPS_PORT} is")
        host = (target.hostname or "").rstrip(".")
        if not any(_matches(host, allowed) for allowed in self._hosts):
            raise UrlRefused(f"the host {host[:100]!r} is not among those to fetch from (TANDEM_FETCH_HOSTS)")

    def _presign(self, url: str) -> str:
        """Return an HTTPS URL of an object, signed with the operator's credentials."""
        bucket, _, key = url.removeprefix("s3://").partition("/")
        if self._s3 is None or bucket not in self._buckets:
            raise UrlRefused(f"the bucket {bucket[:100]!r} is not among those to fetch from (TANDEM_FETCH_HOSTS)")
        if not key:
            raise UrlRefused("the s3:// URL names no object")
        try:
            signed: str = self._s3.generate_presigned_url(
                "get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=PRESIGNED_S
            )
        except Exception as error:  # botocore's errors have no common base
            raise FetchFailed(f"the s3:// URL cannot be signed: {type(error).__name__}") from None
        if not signed.startswith("https://"):
            raise UrlRefused("the object store is not reached over HTTPS")
        return signed

    @asynccontextmanager
    async def _get(self, url: str) -> AsyncIterator[httpcore.Response]:
        headers = [("Accept", "image/*"), ("Accept-Encoding", "identity"), ("User-Agent", f"tandem/{__version__}")]
        async with (
            httpcore.AsyncConnectionPool(ssl_context=self._tls, network_backend=self._network) as pool,
            pool.stream("GET", url, headers=headers) as response,
        ):
            yield response


def urlsplit_or_refuse(url: str) -> SplitResult:
    """Split a URL. Only printable ASCII is read, so that nobody reads another host in it than we do."""
    try:
        if not (url.isascii() and url.isprintable()) or " " in url or "\\" in url:
            raise ValueError("it has other characters than URLs have; percent-encode them")
        target = urlsplit(url)
        _ = target.port
    except ValueError as error:
        raise UrlRefused(f"the URL cannot be read: {error}") from None
    return target


def _matches(host: str, allowed: str) -> bool:
    if allowed.startswith("*."):
        return host.endswith(allowed[1:]) and host != allowed[1:]
    return host == allowed


async def _read(response: httpcore.Response, memory: Budget, limit: SizeLimit) -> bytes:
    """Read an answer into memory."""
    if response.status != 200:
        raise FetchFailed(f"the server answered {response.status}")
    media_type = header(response, b"content-type").partition(";")[0].strip().lower()
    if not (media_type.startswith("image/") or media_type in MEDIA_TYPES):
        raise FetchFailed(f"the server sent {media_type[:50]!r}, which is not an image")
    encoding = header(response, b"content-encoding").strip().lower()
    if encoding not in ("", "identity"):
        raise FetchFailed(f"the server sent content encoding {encoding[:50]!r}, which was not asked for")
    length = header(response, b"content-length")
    if length.isdecimal() and int(length[:20]) > limit.max_bytes:
        raise limit.error(int(length[:20]))
    photo = io.BytesIO()
    async for chunk in response.aiter_stream():
        if photo.tell() + len(chunk) > limit.max_bytes:
            raise limit.error()
        memory.reserve(len(chunk))
        photo.write(chunk)
    if not photo.tell():
        raise FetchFailed("the server sent an empty file")
    return photo.getvalue()


def header(response: httpcore.Response, name: bytes) -> str:
    """Return a header of an answer; empty if it has none."""
    return next((value.decode("latin-1") for key, value in response.headers if key.lower() == name), "")


def _s3_client() -> Any:
    try:
        from botocore.config import Config  # noqa: PLC0415 - of an extra
        from botocore.session import Session  # noqa: PLC0415
    except ImportError:
        raise ExtraMissing(
            f"TANDEM_FETCH_HOSTS names a bucket, but botocore is not installed: {install_command('s3')}"
        ) from None
    return Session().create_client("s3", config=Config(signature_version="s3v4"))
