"""The steps from a photo's bytes to its labelled faces."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from service.annotation import annotate
from service.contract import ModelContract
from service.errors import DeadlineExceeded, ModelChanged, TandemError
from service.faces.alignment import crop_faces
from service.faces.decode import EncodedPhoto, open_photo
from service.faces.face import LANDMARK_NAMES, Face
from service.faces.pipeline import FaceFinder
from service.gathering import Gatherer
from service.inference import TritonClient
from service.memory import DecodingMemory
from service.photo_threads import PhotoThreads
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

TENTH_OF_A_PIXEL = 1
MODEL_CHANGES = 3
"""So often the crops of a photo are cut anew for another version of the model; more than one change means that
Tritons with and without a new one run side by side."""

DEGREE_DIGITS = 1
SCORE_DIGITS = 4
PROBABILITY_DIGITS = 6

DETAIL = 2
"""A face whose box has at least so many times the crop's pixels in a reduced photo is cut out of that."""


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
        self._gatherer = Gatherer(triton, threads.crowded)
        self._threads = threads
        self._telemetry = telemetry
        self._decoding = DecodingMemory(settings.max_decoding_bytes)

    async def read(
        self, data: bytes, options: Options, *, draw_as: str | None = None, ends_at: float | None = None
    ) -> Analysis:
        """Analyse one photo, and draw the answer in it where ``draw_as`` gives a media type.

        It is given up at ``ends_at``, in seconds of ``time.monotonic``, or ``request_timeout_s`` from now.

        Raises:
            UnsupportedPhoto, PhotoTooLarge, UnreadablePhoto: the bytes are no photo that can be read.
            Overloaded: too many photos wait here or in Triton, or it could not be done in time.
            TritonUnavailable: Triton cannot be reached, failed, or its model's contract cannot be read.
            DeadlineExceeded: it took longer.
        """
        timeout_s = self._settings.request_timeout_s
        if ends_at is None:
            ends_at = time.monotonic() + timeout_s
        left_s = ends_at - time.monotonic()
        self._threads.check_room(left_s)
        watch = _Stopwatch()
        try:
            with self._threads.photo():
                async with asyncio.timeout(left_s):
                    analysis = await self._read(data, options, draw_as, ends_at, watch)
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

        def find() -> tuple[tuple[int, int], list[Face], NDArray[np.uint8]]:
            with self._opened(data, watch) as photo:
                found = self._finder.find_encoded(
                    photo, detail=DETAIL * max(contract.crop_size), threshold=options.threshold, lap=watch.lap
                )
                faces = select(found.faces, options)
                crops = cut(found.pixels, faces, contract, found.divisor)
                watch.lap("align")
                return found.size, faces, crops

        size, faces, crops = await self._threads.run(find)
        probabilities = np.empty((0, len(contract.labels)), np.float32)
        if faces:
            for _ in range(MODEL_CHANGES):
                try:
                    probabilities = await self._infer(crops, contract, ends_at)
                    break
                except ModelChanged:  # a new version goes live: its crops may be others
                    contract = await self._triton.contract()
                    crops = await self._threads.run(partial(self._cut_anew, data, faces, contract, watch))
            else:
                probabilities = await self._infer(crops, contract, ends_at)
            watch.lap("triton")
        answer = compose(size, faces, crops, probabilities, contract)
        picture = None
        if draw_as is not None:
            media_type = draw_as

            def draw() -> bytes:
                with self._opened(data, watch, to_draw=True) as photo:
                    return annotate(photo.decode(), answer, media_type)

            picture = await self._threads.run(draw)
            watch.lap("draw")
        return Analysis(answer, picture, watch.seconds)

    @contextmanager
    def _opened(self, data: bytes, watch: _Stopwatch, *, to_draw: bool = False) -> Iterator[EncodedPhoto]:
        """The photo, once there is room for its pixels.

        They are decoded anew for each step that a thread does: while a photo waits for Triton or for a thread,
        they would lie there, many times the upload's bytes, and without a limit to how many photos wait.
        """
        with (
            open_photo(data, max_pixels=self._settings.max_pixels) as photo,
            self._decoding.room(photo.most_memory if to_draw else photo.memory),
        ):
            watch.lap("wait")
            yield photo

    def _cut_anew(
        self, data: bytes, faces: Sequence[Face], contract: ModelContract, watch: _Stopwatch
    ) -> NDArray[np.uint8]:
        with self._opened(data, watch) as photo:
            return cut(photo.decode(), faces, contract)

    async def _infer(
        self, crops: NDArray[np.uint8], contract: ModelContract, ends_at: float
    ) -> NDArray[np.float32]:
        started = time.perf_counter()
        attributes: dict[str, str | int] = {"rpc.system": "grpc", "tandem.model": contract.name}
        with self._tracing.call("triton", attributes | {"tandem.faces": len(crops)}) as headers:
            try:
                return await self._gatherer.infer(
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


def cut(
    photo: NDArray[np.uint8], faces: Sequence[Face], contract: ModelContract, divisor: int = 1
) -> NDArray[np.uint8]:
    """The crops that the contract's model takes, uint8 [N, 1, height, width].

    ``photo`` may be at 1/``divisor`` of its size; the faces are in pixels of the whole.
    """
    template, size = contract.alignment_template, contract.crop_size
    return crop_faces(photo, faces, template=template, size=size, divisor=divisor)


def compose(
    size: tuple[int, int],
    faces: Sequence[Face],
    crops: NDArray[np.uint8],
    probabilities: NDArray[np.float32],
    contract: ModelContract,
) -> PhotoEmotions:
    """The answer, from crops [N, 1, height, width] and probabilities [N, labels] of N faces.

    ``size`` is the photo's height and width.
    """
    height, width = size
    return PhotoEmotions(
        image=ImageSize(width=width, height=height),
        faces=[
            _describe(face, measure(face, crop[0], size), row, contract.labels)
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
