"""Prometheus metrics of the service."""

from collections.abc import Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import choose_encoder

from service import __version__
from service.observability.request_context import current_request
from service.schemas import PhotoEmotions

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
FACES = (0, 1, 2, 3, 5, 10, 20, 50, 100)


class Metrics:
    """The metrics of one app. Each app has its own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.requests = Counter(
            "tandem_requests", "Answered requests.", ["route", "method", "status"], registry=self.registry
        )
        self.duration = Histogram(
            "tandem_request_seconds",
            "Seconds from the arrival of a request's headers to the end of its response.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.stages = Histogram(
            "tandem_stage_seconds",
            "Seconds per stage of a photo: wait (for a worker), decode, detect, landmarks, align, triton, draw.",
            ["stage", "route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.faces = Histogram(
            "tandem_faces_per_photo", "Faces returned per photo.", buckets=FACES, registry=self.registry
        )
        self.labels = Counter(
            "tandem_labels",
            "Faces returned with each label; a drift in their shares points to other photos or another model.",
            ["label", "version"],
            registry=self.registry,
        )
        self.unreliable = Counter(
            "tandem_unreliable_faces",
            "Faces whose emotion may be unreliable, by reason.",
            ["reason"],
            registry=self.registry,
        )
        self.triton = Histogram(
            "tandem_triton_seconds",
            "Seconds to classify the face crops of a photo.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.triton_errors = Counter(
            "tandem_triton_errors", "Photos whose inference failed, by reason.", ["reason"], registry=self.registry
        )
        self.in_flight = Gauge("tandem_in_flight", "Requests in progress.", registry=self.registry)
        self.waiting = Gauge("tandem_photos_waiting", "Photos waiting for a worker.", registry=self.registry)
        self.rejected = Counter(
            "tandem_rejected", "Requests answered with a problem, by its type.", ["reason"], registry=self.registry
        )
        self.streams = Gauge("tandem_streams", "Open streams.", registry=self.registry)
        self.frames = Counter(
            "tandem_frames",
            "Frames of streams, by outcome: answered, dropped (for a newer frame), or a problem type.",
            ["outcome"],
            registry=self.registry,
        )
        self.model = Info("tandem_model", "The served model.", registry=self.registry)
        Info("tandem_build", "The running version of the service.", registry=self.registry).info(
            {"version": __version__}
        )

    def observe_stages(self, seconds: Mapping[str, float]) -> None:
        """Record the seconds of one photo's stages, under the current request's route."""
        context = current_request.get()
        route = context.route if context else ""
        for stage, duration in seconds.items():
            self.stages.labels(stage, route).observe(duration, exemplar())

    def observe_answer(self, answer: PhotoEmotions) -> None:
        """Count the faces and labels returned for one photo."""
        self.faces.observe(len(answer.faces))
        for face in answer.faces:
            self.labels.labels(face.emotion, answer.model.version).inc()
            for reason in face.unreliable_because:
                self.unreliable.labels(reason).inc()

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """Render all metrics; returns the text and its media type.

        The format is OpenMetrics if ``accept`` asks for it, else Prometheus text. Only OpenMetrics has exemplars,
        which link a slow request's bucket to its trace.
        """
        encode, media_type = choose_encoder(accept)
        return encode(self.registry), media_type


def exemplar() -> dict[str, str] | None:
    """Return the exemplar that links a measurement to the current request's trace."""
    context = current_request.get()
    return {"trace_id": context.trace.trace_id} if context else None


def server_timing(seconds: Mapping[str, float]) -> str:
    """Return the ``Server-Timing`` header for a photo's stages; durations are in milliseconds there."""
    return ", ".join(f"{stage};dur={duration * 1000:.1f}" for stage, duration in seconds.items())
