"""A typed client for the gateway, with and without asyncio. It needs only httpx and pydantic.

```python
from service.client import Client

with Client("http://127.0.0.1:8080") as tandem:
    for face in tandem.read(Path("photo.jpg")).faces:
        print(face.emotion, face.confidence)
```
"""

import asyncio
import ipaddress
import os
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx  # noqa: TID251 - calls a gateway for its user
from pydantic import BaseModel, ValidationError

from service.schemas import FACE_FIELDS, BatchLine, ModelDescription, PhotoEmotions, Problem

__all__ = [
    "DEFAULT_URL",
    "AsyncClient",
    "CallFailed",
    "Client",
    "NoAnswer",
    "Options",
    "Photo",
    "Refused",
]

DEFAULT_URL = "http://127.0.0.1:8080"
TIMEOUT_S = 60.0
MAX_PORT = 65535

Photo = bytes | Path
"""A photo as encoded bytes, or the path of a file."""

RETRY_STATUSES = (429, 503)
"""Statuses that come with a Retry-After header."""

MAX_RETRY_DELAY_S = 30.0
DEFAULT_RETRY_DELAY_S = 1.0


class CallFailed(Exception):
    """A request got no answer; the message says why."""


class NoAnswer(CallFailed):
    """No gateway answers at the URL, the connection broke, or the request timed out."""


class Refused(CallFailed):
    """The gateway rejected the request.

    Attributes:
        problem: the problem document (RFC 9457) that it sent.
        retry_after_s: seconds to wait before a retry; None if the gateway does not say.
    """

    def __init__(self, problem: Problem, retry_after_s: float | None) -> None:
        super().__init__(problem.detail)
        self.problem = problem
        self.retry_after_s = retry_after_s


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
        retries: int = 0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Create a client for the gateway at ``url``.

        Args:
            url: base URL of the gateway; http if it has no scheme.
            api_key: sent with each request.
            timeout_s: timeout in seconds of connecting, of each write and of each read.
            retries: maximum number of retries after status 429 or 503, each after the delay in Retry-After.
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
            OSError: the file cannot be read.
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

    def read_batch(
        self, photos: Iterable[tuple[str, Photo]], options: Options = DEFAULT_OPTIONS
    ) -> Iterator[BatchLine]:
        """Yield an answer or a problem for each (name, photo), in the order in which they finish.

        Raises the errors of ``read``.
        """
        batch = _batch(photos, options)
        with (
            _as_no_answer(self._http.base_url),
            self._http.stream("POST", "/v1/emotions/batch", **batch) as response,
        ):
            if not response.is_success:
                response.read()
                raise _error_of(response)
            for line in response.iter_lines():
                yield BatchLine.model_validate_json(line)

    def model(self) -> ModelDescription:
        """Return the description of the served model. Raises the errors of ``read``."""
        return _parse(ModelDescription, self._send("GET", "/v1/model"))

    def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        retries = self._retries
        while True:
            with _as_no_answer(self._http.base_url):
                response = self._http.request(method, path, **content)
            if response.is_success:
                return response
            time.sleep(_retry_delay_s(response, retries))
            retries -= 1


class AsyncClient:
    """A client for asyncio with the methods of ``Client``."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_s: float | None = TIMEOUT_S,
        retries: int = 0,
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
        self, photos: Iterable[tuple[str, Photo]], options: Options = DEFAULT_OPTIONS
    ) -> AsyncIterator[BatchLine]:
        """See ``Client.read_batch``."""
        batch = await asyncio.to_thread(_batch, photos, options)
        with _as_no_answer(self._http.base_url):
            async with self._http.stream("POST", "/v1/emotions/batch", **batch) as response:
                if not response.is_success:
                    await response.aread()
                    raise _error_of(response)
                async for line in response.aiter_lines():
                    yield BatchLine.model_validate_json(line)

    async def model(self) -> ModelDescription:
        """See ``Client.model``."""
        return _parse(ModelDescription, await self._send("GET", "/v1/model"))

    async def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        retries = self._retries
        while True:
            with _as_no_answer(self._http.base_url):
                response = await self._http.request(method, path, **content)
            if response.is_success:
                return response
            await asyncio.sleep(_retry_delay_s(response, retries))
            retries -= 1


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


def _read_bytes(photo: Photo) -> bytes:
    return photo.read_bytes() if isinstance(photo, Path) else photo


def _upload(photo: Photo, options: Options, *, accept: str = "application/json") -> dict[str, Any]:
    return {
        "files": {"image": ("photo", _read_bytes(photo))},
        "params": options.query(),
        "headers": {"Accept": accept},
    }


def _batch(photos: Iterable[tuple[str, Photo]], options: Options) -> dict[str, Any]:
    return {"files": [("images", (name, _read_bytes(photo))) for name, photo in photos], "params": options.query()}


def _parse(schema: type[Schema], response: httpx.Response) -> Schema:
    try:
        return schema.model_validate_json(response.content)
    except ValidationError:
        raise NoAnswer(f"{response.url} answered {response.status_code}, but is not a Tandem gateway") from None


def _error_of(response: httpx.Response) -> CallFailed:
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        return NoAnswer(f"{response.url} answered {response.status_code}, but is not a Tandem gateway")
    retry_after = response.headers.get("Retry-After", "")
    return Refused(problem, float(retry_after) if retry_after.isdecimal() else None)


def _retry_delay_s(response: httpx.Response, retries: int) -> float:
    """Return the seconds to wait before a retry; raise the error if none is left, or if none would help."""
    error = _error_of(response)
    if retries <= 0 or response.status_code not in RETRY_STATUSES:
        raise error
    retry_after_s = error.retry_after_s if isinstance(error, Refused) else None
    return min(MAX_RETRY_DELAY_S, DEFAULT_RETRY_DELAY_S if retry_after_s is None else retry_after_s)


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
