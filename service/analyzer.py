"""Everything between a photo's bytes and its labeled faces."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from service.budget import Budget
from service.errors import DeadlineExceeded, ModelChanged, TandemError
from service.inference.client import TritonClient
from service.inference.micro_batcher import MicroBatcher
from service.inference.model_spec import ModelSpec
from service.inference.request import InferenceRequest
from service.inference.views import read_views
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
from service.vision.quality import FaceQuality, is_ambiguous
from service.workers.queue import WorkQueue
from service.workers.tasks import (
    CropSpec,
    DetectionOptions,
    FaceCrops,
    WorkerResult,
    draw_answer,
    find_faces,
    recrop,
)

PIXEL_DIGITS = 1
DEGREE_DIGITS = 1
SCORE_DIGITS = 4
PROBABILITY_DIGITS = 6

MAX_MODEL_CHANGES = 3
"""How often a photo is cropped again for another version of the model. One change is a new version going live;
more mean that Tritons with and without it run side by side."""


@dataclass(frozen=True, eq=False)
class Analysis:
    """The answer for a photo, the encoded picture with it drawn in if requested, and the seconds of each stage."""

    answer: PhotoEmotions
    picture: bytes | None
    seconds: dict[str, float]


class Analyzer:
    """Reads the emotions in photos: a worker finds and crops the faces, then one call to Triton reads them all."""

    def __init__(
        self,
        settings: Settings,
        *,
        triton: TritonClient,
        queue: WorkQueue,
        metrics: Metrics,
        tracing: Tracing,
    ) -> None:
        self._settings = settings
        self._triton = triton
        self._batcher = MicroBatcher(triton, queue.saturated)
        self._inferring = Budget(
            settings.max_inferring, what="photos that wait for Triton", setting="TANDEM_MAX_INFERRING"
        )
        self._queue = queue
        self._metrics = metrics
        self._tracing = tracing

    async def analyze(
        self, photo: bytes, options: DetectionOptions, *, deadline: float, draw_as: str | None = None
    ) -> Analysis:
        """Analyze one photo, and draw the answer in it if ``draw_as`` is a media type.

        Args:
            photo: The encoded image.
            options: Which faces to return.
            deadline: When to give up, in seconds of ``time.monotonic``.
            draw_as: A key of ``drawing.IMAGE_FORMATS``.

        Raises:
            UnsupportedPhoto, PhotoTooLarge, UnreadablePhoto: The bytes are not a photo that can be read.
            Overloaded: Too many photos wait here or in Triton, or the deadline would be missed.
            TritonUnavailable: Triton cannot be reached, failed, or its model's spec cannot be read.
            DeadlineExceeded: The deadline passed.
        """
        timer = StageTimer()
        try:
            with self._queue.admit(deadline):
                async with asyncio.timeout_at(deadline):  # the loop's clock is time.monotonic, too
                    analysis = await self._analyze(photo, options, deadline, draw_as, timer)
        except TimeoutError:
            raise DeadlineExceeded(
                f"the photo was not finished within {self._settings.request_timeout_s:g} s "
                "(TANDEM_REQUEST_TIMEOUT_S)"
            ) from None
        finally:
            self._tracing.stage_spans(
                [stage for stage in timer.stages if stage[0] != "triton"]
            )  # that has a span of its own
        self._metrics.observe_stages(analysis.seconds)
        self._metrics.observe_answer(analysis.answer)
        return analysis

    async def _analyze(
        self, photo: bytes, options: DetectionOptions, deadline: float, draw_as: str | None, timer: StageTimer
    ) -> Analysis:
        spec = await self._triton.model_spec()
        crop = self._crop_spec(spec)
        max_pixels = self._settings.max_pixels
        found = await self._queue.run(
            partial(find_faces, max_pixels=max_pixels, options=options, crop=crop, waiting_since=timer.last),
            photo,
            partial(WorkerResult.from_reply, crop=crop),
        )
        timer.extend(found.stages)
        crops, probabilities = found.crops, np.empty((0, len(spec.labels)), np.float32)
        if found.faces:
            spec, crops, probabilities = await self._classify(photo, found, spec, deadline)
            timer.end_stage("triton")
        answer = compose(replace(found, crops=crops), probabilities, spec)
        picture = None
        if draw_as is not None:
            picture = await self._queue.run(
                partial(draw_answer, max_pixels=max_pixels, answer=answer, media_type=draw_as),
                photo,
                lambda _, raw: raw,
            )
            timer.end_stage("draw")
        return Analysis(answer, picture, timer.seconds)

    async def _classify(
        self, photo: bytes, found: WorkerResult, spec: ModelSpec, deadline: float
    ) -> tuple[ModelSpec, FaceCrops, NDArray[np.float32]]:
        """Infer, and crop the faces again where another version of the model has gone live meanwhile."""
        crops = found.crops
        changes = 0
        while True:
            try:
                return spec, crops, await self._infer(crops, spec, deadline)
            except ModelChanged:
                changes += 1
                if changes > MAX_MODEL_CHANGES:
                    raise
            spec = await self._triton.model_spec()
            crop = self._crop_spec(spec)
            crops = await self._queue.run(
                partial(recrop, max_pixels=self._settings.max_pixels, faces=found.faces, crop=crop),
                photo,
                partial(FaceCrops.from_reply, crop=crop),
            )

    async def _infer(self, crops: FaceCrops, spec: ModelSpec, deadline: float) -> NDArray[np.float32]:
        started = time.perf_counter()
        attributes: dict[str, str | int] = {"rpc.system": "grpc", "tandem.model": spec.name}
        with self._tracing.client_span("triton", attributes | {"tandem.faces": len(crops.aligned)}) as headers:

            async def infer(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
                return await self._batcher.infer(InferenceRequest(pixels, spec, deadline, headers))

            try:
                with self._inferring.reserved():
                    return await read_views(infer, crops.aligned, crops.boxed)
            except TandemError as error:
                self._metrics.triton_errors.labels(error.slug).inc()
                raise
            finally:
                self._metrics.triton.observe(time.perf_counter() - started, exemplar())

    def _crop_spec(self, spec: ModelSpec) -> CropSpec:
        box_template = spec.box_template if self._settings.more_views else None
        return CropSpec(spec.crop_size, spec.alignment_template, box_template, spec.channels)


def compose(found: WorkerResult, probabilities: NDArray[np.float32], spec: ModelSpec) -> PhotoEmotions:
    """Build the answer for a photo from its N faces and their probabilities [N, labels]."""
    height, width = found.size
    return PhotoEmotions(
        image=ImageSize(width=width, height=height),
        faces=[
            _describe(face, quality, row, spec.labels, cutout)
            for face, quality, row, cutout in zip(
                found.faces, found.crops.qualities, probabilities, found.cutouts, strict=True
            )
        ],
        model=ModelIdentity(name=spec.name, version=spec.version),
    )


def _describe(
    face: Face, quality: FaceQuality, row: NDArray[np.float32], labels: Sequence[str], cutout: str | None
) -> FaceEmotion:
    # Softmax in half precision can leave the interval by a rounding error.
    emotions = {
        label: round(min(max(float(p), 0.0), 1.0), PROBABILITY_DIGITS)
        for label, p in zip(labels, row, strict=True)
    }
    emotion = labels[int(row.argmax())]
    reasons = list(quality.unreliable_because)
    if is_ambiguous(emotions.values()):
        reasons.append("ambiguous")
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
        reliable=not reasons,
        unreliable_because=reasons,
        crop=cutout,
    )


def _pixels(value: float) -> float:
    return round(float(value), PIXEL_DIGITS)
