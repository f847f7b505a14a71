"""The steps from a photo's bytes to its labelled faces."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from service.annotation import annotate
from service.contract import ModelContract
from service.errors import DeadlineExceeded, ModelChanged, Overloaded, TandemError
from service.faces.alignment import crop_faces
from service.faces.decode import decode_photo
from service.faces.face import LANDMARK_NAMES, Face
from service.faces.pipeline import FaceFinder
from service.inference import TritonClient
from service.quality import Quality, measure
from service.schemas import (
    FaceBox,
    FaceEmotion,
    ImageSize,
    Landmarks,
    ModelIdentity,
    PhotoEmotions,
    PictureQuality,
    Point,
    Pose,
)
from service.settings import Settings
from service.telemetry import Telemetry, exemplar
from service.tracing import Tracing

Result = TypeVar("Result")

TENTH_OF_A_PIXEL = 1
DEGREE_DIGITS = 1
SCORE_DIGITS = 4
PROBABILITY_DIGITS = 6


@dataclass(frozen=True)
class Options:
    """What a caller asks for: at most ``max_faces``, largest first; boxes whose shorter side has at least
    ``min_face_size`` pixels; detection scores of at least ``threshold``.
    """

    max_faces: int
    min_face_size: float
    threshold: float


@dataclass(frozen=True, eq=False)
class Analysis:
    """The answer for a photo, the photo with it drawn in if that was wanted, and the seconds of each step."""

    answer: PhotoEmotions
    picture: bytes | None
    seconds: dict[str, float]


class PhotoThreads:
    """A fixed number of threads for what keeps a core busy, and a line of bounded length before them."""

    def __init__(self, workers: int, max_waiting: int, telemetry: Telemetry) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="photo")
        self._workers = workers
        self._max_waiting = max_waiting
        self._inside = 0
        self._idle: deque[asyncio.Future[None]] = deque()
        self._telemetry = telemetry

    def check_room(self) -> None:
        """Refuse before anything is read of a photo that could not be worked on.

        Raises:
            Overloaded: ``max_waiting`` photos are waiting already.
        """
        if self._inside >= self._workers + self._max_waiting:
            raise Overloaded(
                f"{self._workers} photos are worked on and {self._max_waiting} wait (TANDEM_MAX_WAITING)"
            )

    async def idle(self) -> None:
        """Wait until a thread has nothing to do, first come, first served: for work that gives way."""
        while self._inside >= self._workers:
            turn = asyncio.get_running_loop().create_future()
            self._idle.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn in self._idle:
                    self._idle.remove(turn)
                elif not turn.cancelled():
                    self._wake()  # the turn had come; it is the next one's
                raise

    async def run(self, step: Callable[[], Result]) -> Result:
        """Call ``step`` in a thread.

        A caller who gives up leaves the line; a step that runs already is finished, and keeps its thread
        till then.

        Raises:
            Overloaded: ``max_waiting`` photos are waiting already.
        """
        self.check_room()
        loop = asyncio.get_running_loop()
        self._count(1)
        future = self._pool.submit(step)

        def leave(_: Future[Result]) -> None:
            loop.call_soon_threadsafe(self._count, -1)

        future.add_done_callback(leave)
        return await asyncio.wrap_future(future)

    def _count(self, change: int) -> None:
        self._inside += change
        self._telemetry.waiting.set(max(0, self._inside - self._workers))
        if change < 0:
            self._wake()

    def _wake(self) -> None:
        while self._idle and self._inside < self._workers:
            turn = self._idle.popleft()
            if not turn.done():  # else its waiter was cancelled and has not run since
                turn.set_result(None)
                return

    async def close(self) -> None:
        """Let running steps finish and drop those in line."""
        await asyncio.to_thread(self._pool.shutdown, wait=True, cancel_futures=True)


@dataclass
class _Stopwatch:
    """Seconds of each step by name, and each step's start and end as ``time.perf_counter`` gives them."""

    steps: list[tuple[str, float, float]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    _last: float = field(default_factory=time.perf_counter)

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self.steps.append((stage, self._last, now))
        self._last = now


class EmotionReader:
    """Reads the emotions in photos: decode, detect, align in threads, then one request to Triton for all faces."""

    def __init__(
        self,
        settings: Settings,
        *,
        finder: FaceFinder,
        triton: TritonClient,
        threads: PhotoThreads,
        telemetry: Telemetry,
        tracing: Tracing,
    ) -> None:
        self._tracing = tracing
        self._settings = settings
        self._finder = finder
        self._triton = triton
        self._threads = threads
        self._telemetry = telemetry

    async def read(self, data: bytes, options: Options, *, draw_as: str | None = None) -> Analysis:
        """Analyse one photo, and draw the answer in it where ``draw_as`` gives a media type.

        Raises:
            UnsupportedPhoto, PhotoTooLarge, UnreadablePhoto: the bytes are no photo that can be read.
            Overloaded: too many photos wait here or in Triton.
            TritonUnavailable: Triton cannot be reached, failed, or its model's contract cannot be read.
            DeadlineExceeded: it took longer than ``request_timeout_s``.
        """
        timeout_s = self._settings.request_timeout_s
        watch = _Stopwatch()
        try:
            async with asyncio.timeout(timeout_s):
                analysis = await self._read(data, options, draw_as, time.monotonic() + timeout_s, watch)
        except TimeoutError:
            raise DeadlineExceeded(
                f"the photo was not done within {timeout_s:g} s (TANDEM_REQUEST_TIMEOUT_S)"
            ) from None
        finally:
            self._tracing.steps(
                [step for step in watch.steps if step[0] != "triton"]
            )  # that has a span of its own
        self._telemetry.observe_stages(analysis.seconds)
        self._telemetry.observe_answer(analysis.answer)
        return analysis

    async def _read(
        self, data: bytes, options: Options, draw_as: str | None, ends_at: float, watch: _Stopwatch
    ) -> Analysis:
        contract = await self._triton.contract()

        def find() -> tuple[NDArray[np.uint8], list[Face], NDArray[np.uint8]]:
            watch.lap("wait")
            photo = decode_photo(data, max_pixels=self._settings.max_pixels)
            watch.lap("decode")
            found = self._finder.find(photo, threshold=options.threshold, lap=watch.lap)
            faces = select(found, options)
            crops = cut(photo, faces, contract)
            watch.lap("align")
            return photo, faces, crops

        photo, faces, crops = await self._threads.run(find)
        probabilities = np.empty((0, len(contract.labels)), np.float32)
        if faces:
            try:
                probabilities = await self._infer(crops, contract, ends_at)
            except ModelChanged:  # a new version went live: its crops may be others
                contract = await self._triton.contract()
                crops = await self._threads.run(lambda: cut(photo, faces, contract))
                probabilities = await self._infer(crops, contract, ends_at)
            watch.lap("triton")
        answer = compose(photo, faces, crops, probabilities, contract)
        picture = None
        if draw_as is not None:
            media_type = draw_as
            picture = await self._threads.run(lambda: annotate(photo, answer, media_type))
            watch.lap("draw")
        return Analysis(answer, picture, watch.seconds)

    async def _infer(
        self, crops: NDArray[np.uint8], contract: ModelContract, ends_at: float
    ) -> NDArray[np.float32]:
        started = time.perf_counter()
        attributes: dict[str, str | int] = {"rpc.system": "grpc", "tandem.model": contract.name}
        with self._tracing.call("triton", attributes | {"tandem.faces": len(crops)}) as headers:
            try:
                return await self._triton.infer(
                    crops, contract=contract, timeout_s=ends_at - time.monotonic(), headers=headers
                )
            except TandemError as error:
                self._telemetry.triton_errors.labels(error.slug).inc()
                raise
            finally:
                self._telemetry.triton.observe(time.perf_counter() - started, exemplar())


def select(faces: Sequence[Face], options: Options) -> list[Face]:
    """The faces that the caller asked for; they come largest first and stay so."""
    large = [face for face in faces if min(face.box.width, face.box.height) >= options.min_face_size]
    return large[: options.max_faces]


def cut(photo: NDArray[np.uint8], faces: Sequence[Face], contract: ModelContract) -> NDArray[np.uint8]:
    """The crops that the contract's model takes, uint8 [N, 1, height, width]."""
    return crop_faces(photo, faces, template=contract.alignment_template, size=contract.crop_size)


def compose(
    photo: NDArray[np.uint8],
    faces: Sequence[Face],
    crops: NDArray[np.uint8],
    probabilities: NDArray[np.float32],
    contract: ModelContract,
) -> PhotoEmotions:
    """The answer, from crops [N, 1, height, width] and probabilities [N, labels] of N faces."""
    height, width = photo.shape[:2]
    return PhotoEmotions(
        image=ImageSize(width=width, height=height),
        faces=[
            _describe(face, measure(face, crop[0], (height, width)), row, contract.labels)
            for face, crop, row in zip(faces, crops, probabilities, strict=True)
        ],
        model=ModelIdentity(name=contract.name, version=contract.version),
    )


def _describe(face: Face, quality: Quality, row: NDArray[np.float32], labels: Sequence[str]) -> FaceEmotion:
    # Softmax in half precision may leave the interval by a rounding error.
    emotions = {
        label: round(min(max(float(p), 0.0), 1.0), PROBABILITY_DIGITS)
        for label, p in zip(labels, row, strict=True)
    }
    emotion = labels[int(row.argmax())]
    box = face.box
    return FaceEmotion(
        box=FaceBox(x=_pixels(box.x), y=_pixels(box.y), width=_pixels(box.width), height=_pixels(box.height)),
        landmarks=Landmarks(
            **{
                name: Point(x=_pixels(x), y=_pixels(y))
                for name, (x, y) in zip(LANDMARK_NAMES, face.landmarks, strict=True)
            }
        ),
        detection_score=round(min(max(face.score, 0.0), 1.0), SCORE_DIGITS),
        emotion=emotion,
        confidence=emotions[emotion],
        emotions=emotions,
        pose=Pose(roll=round(quality.roll, DEGREE_DIGITS), yaw=round(quality.yaw, DEGREE_DIGITS)),
        quality=PictureQuality(
            size=_pixels(quality.size),
            sharpness=round(quality.sharpness, SCORE_DIGITS),
            brightness=round(quality.brightness, SCORE_DIGITS),
        ),
        reliable=not quality.doubts,
        unreliable_because=list(quality.doubts),
    )


def _pixels(value: float) -> float:
    return round(float(value), TENTH_OF_A_PIXEL)
