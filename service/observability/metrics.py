"""What can be seen of the service from outside: Prometheus metrics and structured logs, never a photo."""

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
from service.observability.tracing import current
from service.schemas import PhotoEmotions

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
FACES = (0, 1, 2, 3, 5, 10, 20, 50, 100)


class Metrics:
    """The metrics of one app, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.requests = Counter(
            "tandem_requests", "Requests answered.", ["route", "method", "status"], registry=self.registry
        )
        self.duration = Histogram(
            "tandem_request_seconds",
            "Seconds from a request's first byte to the end of its answer.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.stages = Histogram(
            "tandem_stage_seconds",
            "Seconds of each step of a photo: wait for a process, decode, detect, landmarks, align, triton, draw.",
            ["stage", "route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.faces = Histogram(
            "tandem_faces_per_photo", "Faces answered for a photo.", buckets=FACES, registry=self.registry
        )
        self.labels = Counter(
            "tandem_labels",
            "Faces answered with each label; a drift of their shares shows other photos or another model.",
            ["label", "version"],
            registry=self.registry,
        )
        self.unreliable = Counter(
            "tandem_unreliable_faces",
            "Faces with a reason not to rely on them.",
            ["reason"],
            registry=self.registry,
        )
        self.triton = Histogram(
            "tandem_triton_seconds",
            "Seconds from a photo's crops to their answer.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.triton_errors = Counter(
            "tandem_triton_errors", "Photos whose call to Triton failed.", ["reason"], registry=self.registry
        )
        self.in_flight = Gauge("tandem_in_flight", "Requests being answered.", registry=self.registry)
        self.waiting = Gauge("tandem_photos_waiting", "Photos that wait for a process.", registry=self.registry)
        self.rejected = Counter(
            "tandem_rejected", "Requests answered with a problem.", ["reason"], registry=self.registry
        )
        self.streams = Gauge("tandem_streams", "Streams that are open.", registry=self.registry)
        self.frames = Counter(
            "tandem_frames",
            "Frames of streams: answered, dropped for a newer one, or the problem they were answered with.",
            ["outcome"],
            registry=self.registry,
        )
        self.model = Info("tandem_model", "The model that answers.", registry=self.registry)
        Info("tandem_build", "This build of the service.", registry=self.registry).info({"version": __version__})

    def observe_stages(self, seconds: Mapping[str, float]) -> None:
        """Record how long the steps of one photo took."""
        exchange = current.get()
        for stage, duration in seconds.items():
            self.stages.labels(stage, exchange.route if exchange else "").observe(duration, exemplar())

    def observe_answer(self, answer: PhotoEmotions) -> None:
        """Count what was answered for one photo."""
        self.faces.observe(len(answer.faces))
        for face in answer.faces:
            self.labels.labels(face.emotion, answer.model.version).inc()
            for reason in face.unreliable_because:
                self.unreliable.labels(reason).inc()

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """All metrics and their media type: OpenMetrics if ``accept`` asks for it, else Prometheus' text format.

        Exemplars, which lead from a slow request's bucket to its trace, are in OpenMetrics alone.
        """
        encode, media_type = choose_encoder(accept)
        return encode(self.registry), media_type


def exemplar() -> dict[str, str] | None:
    """What leads from a measurement to the request's trace."""
    exchange = current.get()
    return {"trace_id": exchange.trace.trace_id} if exchange else None


def server_timing(seconds: Mapping[str, float]) -> str:
    """The ``Server-Timing`` header for the steps of a photo, in milliseconds."""
    return ", ".join(f"{stage};dur={duration * 1000:.1f}" for stage, duration in seconds.items())
