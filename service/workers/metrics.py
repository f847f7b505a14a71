"""Metrics of the worker processes' resources."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from prometheus_client import Metric, ProcessCollector
from prometheus_client.registry import Collector


class WorkerMetrics(Collector):
    """CPU time, memory and open files of each worker, as ``ProcessCollector`` reports them for the gateway."""

    def __init__(self, pids: Callable[[], Sequence[int | None]]) -> None:
        """``pids`` returns the process id of each worker; None for one that is being replaced."""
        self._pids = pids

    def collect(self) -> Iterable[Metric]:
        """Return metrics ``tandem_photo_process_*``; a worker that is replaced keeps its label ``process``."""
        metrics: dict[str, Metric] = {}
        for number, pid in enumerate(self._pids()):
            if pid is None:
                continue
            collector = ProcessCollector("tandem_photo", pid=partial(str, pid), registry=None)
            for found in collector.collect():
                metric = metrics.setdefault(found.name, Metric(found.name, found.documentation, found.type))
                for sample in found.samples:
                    metric.add_sample(sample.name, {"process": str(number)}, sample.value)
        return metrics.values()
