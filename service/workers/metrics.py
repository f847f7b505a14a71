"""What photo processes use, among the gateway's metrics."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from prometheus_client import Metric, ProcessCollector
from prometheus_client.registry import Collector


class WorkerMetrics(Collector):
    """CPU time, memory and open files of each photo process, as the library tells them of the gateway's own."""

    def __init__(self, ids: Callable[[], Sequence[int | None]]) -> None:
        """``ids`` gives the system's number for each process, None for one that is away."""
        self._ids = ids

    def collect(self) -> Iterable[Metric]:
        """Metrics ``tandem_photo_process_*``; the label «process» stays when a process is replaced."""
        metrics: dict[str, Metric] = {}
        for number, process in enumerate(self._ids()):
            if process is None:
                continue
            collector = ProcessCollector("tandem_photo", pid=partial(str, process), registry=None)
            for found in collector.collect():
                metric = metrics.setdefault(found.name, Metric(found.name, found.documentation, found.type))
                for sample in found.samples:
                    metric.add_sample(sample.name, {"process": str(number)}, sample.value)
        return metrics.values()
