"""The steps from a photo's bytes to its labelled faces."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from service.errors import DeadlineExceeded, ModelChanged, TandemError
from service.inference.client import TritonClient
from service.inference.micro_batcher import MicroBatcher
from service.inference.model_spec import ModelSpec
from service.observability.metrics import Metrics, exemplar
from service.observability.timing import StageTimer
from service.observability.tracing import Tracing
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
from service.vision.face import LANDMARK_NAMES, Face
from service.vision.quality import FaceQuality
from service.workers.queue import WorkQueue
from service.workers.tasks import (
    CropSpec,
    DetectionOptions,
    FaceCrops,
    WorkerResult,
    annotate_encoded,
    find,
    recrop,
)

TENTH_OF_A_PIXEL = 1
MODEL_CHANGES = 3
"""So often the crops of a photo are cut anew for another version of the model; more than one change means that
Tritons with and without a new one run side by side."""

DEGREE_DIGITS = 1
SCORE_DIGITS = 4
PROBABILITY_DIGITS = 6


@dataclass(frozen=True, eq=False)
class Analysis:
    """The answer for a photo, the photo with it drawn in if that was wanted, and the seconds of each step."""

    answer: PhotoEmotions
    picture: bytes | None
    seconds: dict[str, float]


class Analyzer:
    """Reads the emotions in photos: decode, detect, align in a process, then one call to Triton for all faces."""

    def __init__(
        self,
        settings: Settings,
        *,
        triton: TritonClient,
        line: WorkQueue,
        metrics: Metrics,
        tracing: Tracing,
    ) -> None:
        self._tracing = tracing
        self._settings = settings
        self._triton = triton
        self._gatherer = MicroBatcher(triton, line.crowded)
        self._line = line
        self._metrics = metrics

    async def read(
        self, data: bytes, options: DetectionOptions, *, draw_as: str | None = None, ends_at: float | None = None
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
        self._line.check_room(left_s)
        timer = StageTimer()
        try:
            with self._line.photo():
                async with asyncio.timeout(left_s):
                    analysis = await self._read(data, options, draw_as, ends_at, timer)
        except TimeoutError:
            raise DeadlineExceeded(
                f"the photo was not done within {timeout_s:g} s (TANDEM_REQUEST_TIMEOUT_S)"
            ) from None
        finally:
            # Triton has a span of its own.
            self._tracing.stage_spans([stage for stage in timer.stages if stage[0] != "triton"])
        self._metrics.observe_stages(analysis.seconds)
        self._metrics.observe_answer(analysis.answer)
        return analysis

    async def _read(
        self, data: bytes, options: DetectionOptions, draw_as: str | None, ends_at: float, timer: StageTimer
    ) -> Analysis:
        contract = await self._triton.contract()
        max_pixels = self._settings.max_pixels
        crop = _crop_of(contract)
        found = await self._line.run(
            partial(find, max_pixels=max_pixels, options=options, crop=crop, handed_over_at=timer.last),
            data,
            partial(WorkerResult.read, crop=crop),
        )
        timer.extend(found.stages)
        faces, portraits = found.faces, found.portraits
        probabilities = np.empty((0, len(contract.labels)), np.float32)
        if faces:
            for _ in range(MODEL_CHANGES):
                try:
                    probabilities = await self._infer(portraits.crops, contract, ends_at)
                    break
                except ModelChanged:  # a new version goes live: its crops may be others
                    contract = await self._triton.contract()
                    crop = _crop_of(contract)
                    portraits = await self._line.run(
                        partial(recrop, max_pixels=max_pixels, faces=faces, crop=crop),
                        data,
                        partial(FaceCrops.read, crop=crop),
                    )
            else:
                probabilities = await self._infer(portraits.crops, contract, ends_at)
            timer.end_stage("triton")
        answer = compose(found.size, faces, portraits.qualities, probabilities, contract)
        picture = None
        if draw_as is not None:
            picture = await self._line.run(
                partial(annotate_encoded, max_pixels=max_pixels, answer=answer, media_type=draw_as),
                data,
                lambda _, raw: raw,
            )
            timer.end_stage("draw")
        return Analysis(answer, picture, timer.seconds)

    async def _infer(self, crops: NDArray[np.uint8], contract: ModelSpec, ends_at: float) -> NDArray[np.float32]:
        started = time.perf_counter()
        attributes: dict[str, str | int] = {"rpc.system": "grpc", "tandem.model": contract.name}
        with self._tracing.client_span("triton", attributes | {"tandem.faces": len(crops)}) as headers:
            try:
                return await self._gatherer.infer(
                    crops, contract=contract, timeout_s=ends_at - time.monotonic(), headers=headers
                )
            except TandemError as error:
                self._metrics.triton_errors.labels(error.slug).inc()
                raise
            finally:
                self._metrics.triton.observe(time.perf_counter() - started, exemplar())


def _crop_of(contract: ModelSpec) -> CropSpec:
    return CropSpec(contract.crop_size, contract.alignment_template)


def compose(
    size: tuple[int, int],
    faces: Sequence[Face],
    qualities: Sequence[FaceQuality],
    probabilities: NDArray[np.float32],
    contract: ModelSpec,
) -> PhotoEmotions:
    """The answer, from N faces, their qualities and their probabilities [N, labels].

    ``size`` is the photo's height and width.
    """
    height, width = size
    return PhotoEmotions(
        image=ImageSize(width=width, height=height),
        faces=[
            _describe(face, quality, row, contract.labels)
            for face, quality, row in zip(faces, qualities, probabilities, strict=True)
        ],
        model=ModelIdentity(name=contract.name, version=contract.version),
    )


def _describe(face: Face, quality: FaceQuality, row: NDArray[np.float32], labels: Sequence[str]) -> FaceEmotion:
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
        reliable=not quality.unreliable_because,
        unreliable_because=list(quality.unreliable_because),
    )


def _pixels(value: float) -> float:
    return round(float(value), TENTH_OF_A_PIXEL)
