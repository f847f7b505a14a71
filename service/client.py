"""A typed client of the gateway, with and without asyncio; it needs httpx and pydantic alone.

```python
from service.client import Client

with Client("http://127.0.0.1:8080") as tandem:
    for face in tandem.read(Path("photo.jpg")).faces:
        print(face.emotion, face.confidence)
```
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from service.schemas import BatchLine, ModelDescription, PhotoEmotions, Problem

DEFAULT_URL = "http://127.0.0.1:8080"
TIMEOUT_S = 60.0

Photo = bytes | Path
"""A photo's bytes, or the file that holds them."""

RETRIED = (429, 503)
"""Answers that say «later»; both carry Retry-After."""

MAX_PAUSE_S = 30.0


class CallFailed(Exception):
    """There is no answer; the message says why."""


class NoAnswer(CallFailed):
    """Nobody answers at the URL, or the connection broke, or it took too long."""


class Refused(CallFailed):
    """The gateway answered with a problem.

    ``retry_after_s`` is after how many seconds to try again, where the gateway says so.
    """

    def __init__(self, problem: Problem, retry_after_s: float | None) -> None:
        super().__init__(problem.detail)
        self.problem = problem
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Options:
    """What to look for; None and 0 leave it to the gateway. See the parameters of ``POST /v1/emotions``."""

    max_faces: int | None = None
    min_face_size: float = 0
    threshold: float | None = None

    def query(self) -> dict[str, Any]:
        """The query parameters that differ from the gateway's defaults."""
        given = {"max_faces": self.max_faces, "min_face_size": self.min_face_size, "threshold": self.threshold}
        return {name: value for name, value in given.items() if value not in (None, 0)}


ANY = Options()

Answer = TypeVar("Answer", bound=BaseModel)


class Client:
    """For code without asyncio. Thread-safe; close it, or use it as context manager."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        retries: int = 0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """A client of the gateway at ``url``.

        Args:
            url: its base URL.
            api_key: sent with each request.
            timeout_s: seconds that a connection, and each piece of an answer, may take.
            retries: how often to try again after «later» (429 and 503), as long as the gateway asks for.
            transport: how httpx reaches the gateway, for tests and proxies.
        """
        self._retries = retries
        self._http = httpx.Client(base_url=url, headers=_headers(api_key), timeout=timeout_s, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def read(self, photo: Photo, options: Options = ANY) -> PhotoEmotions:
        """The emotion that each face in a photo shows.

        Raises:
            OSError: the file cannot be read.
            Refused: the gateway answered with a problem.
            NoAnswer: it did not answer.
        """
        return _parse(PhotoEmotions, self._send("POST", "/v1/emotions", **_upload(photo, options)))

    def annotate(self, photo: Photo, options: Options = ANY, *, media_type: str = "image/jpeg") -> bytes:
        """The photo with boxes and labels drawn, as JPEG, PNG or WebP; raises as ``read`` does."""
        response = self._send("POST", "/v1/emotions", **_upload(photo, options, accept=media_type))
        return response.content

    def read_batch(self, photos: Iterable[tuple[str, Photo]], options: Options = ANY) -> Iterator[BatchLine]:
        """An answer or a problem for each of many (name, photo), as they are done; raises as ``read`` does."""
        upload = _batch(photos, options)
        with (
            _telling_errors(self._http.base_url),
            self._http.stream("POST", "/v1/emotions/batch", **upload) as response,
        ):
            if not response.is_success:
                response.read()
                raise _refused(response)
            for line in response.iter_lines():
                yield BatchLine.model_validate_json(line)

    def model(self) -> ModelDescription:
        """What the served model states about itself; raises as ``read`` does."""
        return _parse(ModelDescription, self._send("GET", "/v1/model"))

    def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        retries = self._retries
        while True:
            with _telling_errors(self._http.base_url):
                response = self._http.request(method, path, **content)
            if response.is_success:
                return response
            time.sleep(_pause_s(response, again=retries > 0))
            retries -= 1


class AsyncClient:
    """For code with asyncio; otherwise as ``Client``."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_s: float | None = TIMEOUT_S,
        retries: int = 0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """A client of the gateway at ``url``; the arguments are those of ``Client``."""
        self._retries = retries
        self._http = httpx.AsyncClient(
            base_url=url, headers=_headers(api_key), timeout=timeout_s, transport=transport
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

    async def read(self, photo: Photo, options: Options = ANY) -> PhotoEmotions:
        """As ``Client.read``."""
        upload = await asyncio.to_thread(_upload, photo, options)
        return _parse(PhotoEmotions, await self._send("POST", "/v1/emotions", **upload))

    async def annotate(self, photo: Photo, options: Options = ANY, *, media_type: str = "image/jpeg") -> bytes:
        """As ``Client.annotate``."""
        upload = await asyncio.to_thread(_upload, photo, options, accept=media_type)
        return (await self._send("POST", "/v1/emotions", **upload)).content

    async def read_batch(
        self, photos: Iterable[tuple[str, Photo]], options: Options = ANY
    ) -> AsyncIterator[BatchLine]:
        """As ``Client.read_batch``."""
        batch = await asyncio.to_thread(_batch, photos, options)
        with _telling_errors(self._http.base_url):
            async with self._http.stream("POST", "/v1/emotions/batch", **batch) as response:
                if not response.is_success:
                    await response.aread()
                    raise _refused(response)
                async for line in response.aiter_lines():
                    yield BatchLine.model_validate_json(line)

    async def model(self) -> ModelDescription:
        """As ``Client.model``."""
        return _parse(ModelDescription, await self._send("GET", "/v1/model"))

    async def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        retries = self._retries
        while True:
            with _telling_errors(self._http.base_url):
                response = await self._http.request(method, path, **content)
            if response.is_success:
                return response
            await asyncio.sleep(_pause_s(response, again=retries > 0))
            retries -= 1


def _headers(api_key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def _bytes(photo: Photo) -> bytes:
    return photo.read_bytes() if isinstance(photo, Path) else photo


def _upload(photo: Photo, options: Options, *, accept: str = "application/json") -> dict[str, Any]:
    return {"files": {"image": ("photo", _bytes(photo))}, "params": options.query(), "headers": {"Accept": accept}}


def _batch(photos: Iterable[tuple[str, Photo]], options: Options) -> dict[str, Any]:
    return {"files": [("images", (name, _bytes(photo))) for name, photo in photos], "params": options.query()}


def _parse(schema: type[Answer], response: httpx.Response) -> Answer:
    try:
        return schema.model_validate_json(response.content)
    except ValidationError:
        raise NoAnswer(f"{response.url} answers, but is no Tandem") from None


def _refused(response: httpx.Response) -> CallFailed:
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        return NoAnswer(f"{response.url} answered {response.status_code}, and is no Tandem")
    retry_after = response.headers.get("Retry-After", "")
    return Refused(problem, float(retry_after) if retry_after.isdecimal() else None)


def _pause_s(response: httpx.Response, *, again: bool) -> float:
    """Seconds until the next attempt after a refusal; raises it where there is none, or where none would help."""
    refused = _refused(response)
    if not again or response.status_code not in RETRIED:
        raise refused
    wanted = refused.retry_after_s if isinstance(refused, Refused) else None
    return min(MAX_PAUSE_S, 1.0 if wanted is None else wanted)


@contextmanager
def _telling_errors(url: httpx.URL) -> Iterator[None]:
    try:
        yield
    except httpx.HTTPError as error:
        raise NoAnswer(f"no answer from {url}: {error or type(error).__name__}") from error
