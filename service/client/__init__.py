"""A typed client for the gateway, with and without asyncio. It needs only httpx and pydantic.

A photo is whatever you have of one: see ``Photo``. Every failure is a ``CallFailed``.

```python
from service.client import Client

with Client("http://127.0.0.1:8080") as tandem:
    for face in tandem.read("photo.jpg").faces:
        print(face.emotion, face.confidence)
```
"""

import asyncio
import ipaddress
import os
import random
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import count
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx  # noqa: TID251 - calls a gateway for its user
from pydantic import BaseModel, ValidationError

from service.client.errors import CallFailed, NoAnswer, NoSuchFile, Refused, UnreadableFile, UnusablePhoto
from service.client.photos import Photo, encode
from service.schemas import FACE_FIELDS, BatchLine, ModelDescription, PhotoEmotions, Problem

__all__ = [
    "DEFAULT_URL",
    "AsyncClient",
    "CallFailed",
    "Client",
    "NamedPhoto",
    "NoAnswer",
    "NoSuchFile",
    "Options",
    "Photo",
    "Refused",
    "UnreadableFile",
    "UnusablePhoto",
]

DEFAULT_URL = "http://127.0.0.1:8080"
TIMEOUT_S = 60.0
MAX_PORT = 65535

NamedPhoto = Photo | tuple[str, Photo]
"""A photo of a batch, alone or with a name. The name of one without is its path, or empty."""

RETRIES = 3
RETRY_STATUSES = (429, 503)
"""Statuses that come with a Retry-After header."""

FIRST_RETRY_DELAY_S, MAX_RETRY_DELAY_S = 0.5, 60.0
"""The delay doubles with each retry, and is never less than Retry-After asks for."""

JITTER = 0.25
"""Share of the delay that is added at random, so that callers who were refused together do not return together."""

MAX_NAME_BYTES = 255
"""Of a file name that is sent; the whole name is put into the answer here."""


@dataclass(frozen=True)
class Options:
    """Which faces to return; None and 0 select the gateway's defaults.

    See the parameters of ``POST /v1/emotions``. ``crops`` asks for a picture of each face in ``FaceEmotion.crop``.
    """

    max_faces: int | None = None
    min_face_size: float = 0
    threshold: float | None = None
    crops: bool = False

    def query(self) -> dict[str, Any]:
        """Return the query parameters that differ from the gateway's defaults."""
        given = {
            "max_faces": self.max_faces,
            "min_face_size": self.min_face_size,
            "threshold": self.threshold,
            "fields": ",".join(FACE_FIELDS) if self.crops else None,
        }
        return {name: value for name, value in given.items() if value not in (None, 0)}


DEFAULT_OPTIONS = Options()

Schema = TypeVar("Schema", bound=BaseModel)


class Client:
    """A blocking client. It is thread-safe. Close it, or use it as a context manager."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        retries: int = RETRIES,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Create a client for the gateway at ``url``.

        Args:
            url: base URL of the gateway; http if it has no scheme.
            api_key: sent with each request.
            timeout_s: timeout in seconds of connecting, of each write and of each read.
            retries: maximum number of retries after status 429 or 503. Each waits at least as long as Retry-After
                says, and twice as long as the one before.
            transport: httpx transport, for tests and proxies.

        Raises:
            ValueError: ``url`` is not that of an HTTP server.
        """
        url = base_url(url)
        self._retries = retries
        self._http = httpx.Client(
            base_url=url,
            headers=_headers(api_key),
            timeout=timeout_s,
            transport=transport,
            trust_env=not _is_local(url),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def read(self, photo: Photo, options: Options = DEFAULT_OPTIONS) -> PhotoEmotions:
        """Recognize the emotion that each face in a photo shows.

        Raises:
            UnreadableFile, UnusablePhoto: the file cannot be read, or what was passed is not a photo.
            Refused: the gateway rejected the request.
            NoAnswer: the gateway did not answer.
        """
        return _parse(PhotoEmotions, self._send("POST", "/v1/emotions", **_upload(photo, options)))

    def annotate(
        self, photo: Photo, options: Options = DEFAULT_OPTIONS, *, media_type: str = "image/jpeg"
    ) -> bytes:
        """Return the photo with boxes and labels as JPEG, PNG or WebP. Raises the errors of ``read``."""
        response = self._send("POST", "/v1/emotions", **_upload(photo, options, accept=media_type))
        return response.content

    def read_batch(self, photos: Iterable[NamedPhoto], options: Options = DEFAULT_OPTIONS) -> Iterator[BatchLine]:
        """Yield an answer or a problem for each photo or (name, photo), in the order in which they finish.

        Names come back as they were passed. Raises the errors of ``read``.
        """
        batch = _Batch(photos, options)
        for attempt in count():
            if not batch.names:
                return
            with (
                _as_no_answer(self._http.base_url),
                self._http.stream("POST", "/v1/emotions/batch", **batch.content) as response,
            ):
                if response.is_success:
                    yield from map(batch.line, response.iter_lines())
                    batch.check_complete()
                    return
                response.read()
            time.sleep(_retry_delay_s(response, attempt, self._retries))

    def model(self) -> ModelDescription:
        """Return the description of the served model. Raises the errors of ``read``."""
        return _parse(ModelDescription, self._send("GET", "/v1/model"))

    def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        for attempt in count():
            with _as_no_answer(self._http.base_url):
                response = self._http.request(method, path, **content)
            if response.is_success:
                return response
            time.sleep(_retry_delay_s(response, attempt, self._retries))
        raise AssertionError


class AsyncClient:
    """A client for asyncio with the methods of ``Client``."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_s: float | None = TIMEOUT_S,
        retries: int = RETRIES,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Create a client; the arguments are those of ``Client``, and ``timeout_s`` may be None for no timeout."""
        url = base_url(url)
        self._retries = retries
        self._http = httpx.AsyncClient(
            base_url=url,
            headers=_headers(api_key),
            timeout=timeout_s,
            transport=transport,
            trust_env=not _is_local(url),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def read(self, photo: Photo, options: Options = DEFAULT_OPTIONS) -> PhotoEmotions:
        """See ``Client.read``."""
        upload = await asyncio.to_thread(_upload, photo, options)
        return _parse(PhotoEmotions, await self._send("POST", "/v1/emotions", **upload))

    async def annotate(
        self, photo: Photo, options: Options = DEFAULT_OPTIONS, *, media_type: str = "image/jpeg"
    ) -> bytes:
        """See ``Client.annotate``."""
        upload = await asyncio.to_thread(_upload, photo, options, accept=media_type)
        return (await self._send("POST", "/v1/emotions", **upload)).content

    async def read_batch(
        self, photos: Iterable[NamedPhoto], options: Options = DEFAULT_OPTIONS
    ) -> AsyncIterator[BatchLine]:
        """See ``Client.read_batch``."""
        batch = await asyncio.to_thread(_Batch, photos, options)
        for attempt in count():
            if not batch.names:
                return
            with _as_no_answer(self._http.base_url):
                async with self._http.stream("POST", "/v1/emotions/batch", **batch.content) as response:
                    if response.is_success:
                        async for line in response.aiter_lines():
                            yield batch.line(line)
                        batch.check_complete()
                        return
                    await response.aread()
            await asyncio.sleep(_retry_delay_s(response, attempt, self._retries))

    async def model(self) -> ModelDescription:
        """See ``Client.model``."""
        return _parse(ModelDescription, await self._send("GET", "/v1/model"))

    async def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        for attempt in count():
            with _as_no_answer(self._http.base_url):
                response = await self._http.request(method, path, **content)
            if response.is_success:
                return response
            await asyncio.sleep(_retry_delay_s(response, attempt, self._retries))
        raise AssertionError


def base_url(url: str) -> str:
    """Return the URL of a gateway, with http for its scheme if it has none.

    Raises:
        ValueError: it is not the URL of an HTTP server.
    """
    complete = url if "://" in url else f"http://{url}"
    try:
        parts = httpx.URL(complete)
        usable = parts.scheme in ("http", "https") and parts.host and (parts.port or 80) <= MAX_PORT
    except httpx.InvalidURL:
        usable = False
    if not usable or any(character.isspace() for character in url):
        raise ValueError(f"{url!r} is not the URL of a gateway, such as {DEFAULT_URL} or example.org:8080")
    return complete


def _headers(api_key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def _upload(photo: Photo, options: Options, *, accept: str = "application/json") -> dict[str, Any]:
    return {
        "files": {"image": ("photo", encode(photo))},
        "params": options.query(),
        "headers": {"Accept": accept},
    }


class _Batch:
    """The photos of a batch, and the lines that came for them."""

    def __init__(self, photos: Iterable[NamedPhoto], options: Options) -> None:
        named = [photo if isinstance(photo, tuple) else (_name_of(photo), photo) for photo in photos]
        self.names = [name for name, _ in named]
        self._missing = set(range(len(named)))
        files = [("images", (_sendable(name), encode(photo))) for name, photo in named]
        self.content: dict[str, Any] = {"files": files, "params": options.query()}

    def line(self, text: str) -> BatchLine:
        """Parse a line, and put the name into it that its photo had here."""
        try:
            line = BatchLine.model_validate_json(text)
            self._missing.remove(line.index)
        except (ValidationError, KeyError):
            raise NoAnswer(
                f"the answer to a batch has a line that is not one of Tandem's: {text[:100]!r}"
            ) from None
        return line.model_copy(update={"name": self.names[line.index]})

    def check_complete(self) -> None:
        """Raise an error unless every photo had its line."""
        if self._missing:
            raise NoAnswer(f"{len(self._missing)} of {len(self.names)} photos of the batch got no answer")


def _name_of(photo: Photo) -> str:
    return os.fsdecode(photo) if isinstance(photo, str | os.PathLike) else ""


def _sendable(name: str) -> str:
    """Return a name that can be sent in a form; names of files may be no valid text."""
    return str(name).encode("utf-8", "replace")[:MAX_NAME_BYTES].decode("utf-8", "ignore")


def _parse(schema: type[Schema], response: httpx.Response) -> Schema:
    try:
        return schema.model_validate_json(response.content)
    except ValidationError:
        message = f"{response.url} answered {response.status_code}, but is not a Tandem gateway"
        raise NoAnswer(message, response.status_code) from None


def _error_of(response: httpx.Response) -> CallFailed:
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        message = f"{response.url} answered {response.status_code}, but is not a Tandem gateway"
        return NoAnswer(message, response.status_code)
    return Refused(problem, _retry_after_s(response))


def _retry_after_s(response: httpx.Response) -> float | None:
    """Return what Retry-After asks for, which is seconds or a date (RFC 9110, section 10.2.3)."""
    value: str = response.headers.get("Retry-After", "")
    if value.isdecimal():
        return float(value)
    try:
        until = parsedate_to_datetime(value)
        return max(0.0, (until - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None


def _retry_delay_s(response: httpx.Response, attempt: int, retries: int) -> float:
    """Return the seconds to wait before a retry; raise the error if none is left, or if none would help soon."""
    asked_s = _retry_after_s(response) or 0.0
    if attempt >= retries or response.status_code not in RETRY_STATUSES or asked_s > MAX_RETRY_DELAY_S:
        raise _error_of(response)
    delay_s: float = max(asked_s, min(MAX_RETRY_DELAY_S, FIRST_RETRY_DELAY_S * 2**attempt))
    return delay_s * (1 + JITTER * random.random())  # noqa: S311 - not a secret


@contextmanager
def _as_no_answer(url: httpx.URL) -> Iterator[None]:
    try:
        yield
    except httpx.HTTPError as error:
        raise NoAnswer(f"no answer from {url}{_proxy_note(url)}: {error or type(error).__name__}") from error


def _is_local(url: str) -> bool:
    """Whether a gateway runs on this machine: no proxy of the environment can reach it."""
    host = httpx.URL(url).host
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _proxy_note(url: httpx.URL) -> str:
    """Name the proxy that the environment sets for a URL, in case it is what does not answer."""
    if _is_local(str(url)):
        return ""
    for name in (f"{url.scheme}_proxy", f"{url.scheme}_proxy".upper(), "all_proxy", "ALL_PROXY"):
        if os.environ.get(name):
            return f" ({name} is {httpx.URL(os.environ[name]).host})"
    return ""
