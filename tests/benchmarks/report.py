"""Write the results of the benchmark suite as Markdown tables and plots."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

Results = dict[str, Any]
Run = dict[str, Any]

OVERLOAD = 2.0
"""Arrival rate of the overload runs, as a multiple of the best throughput."""

WORKER_STAGES = ("decode", "detect", "landmarks", "align")
"""Stages that the gateway's workers compute."""

TRIED = "## What was tried"
"""Heading of the section that is maintained by hand."""

TITLES = {"this": "this checkout", "baseline": "baseline"}


def write_markdown(results: Results, tried: str) -> str:
    """Return all tables, with medians of repeated runs, and for throughput the range as well.

    Args:
        results: the suite's results.
        tried: an earlier RESULTS.md; its section "What was tried" is copied.
    """
    machine = results["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    plots = "\n".join(f"![{photo}]({plot_name(photo)})" for photo in results["bound"])
    parts = [
        "# How fast it is",
        "Written by `python tests/benchmarks/suite.py --out tests/benchmarks`, except for the last section. "
        + f"Commit {machine['commit']}"
        + (f", compared with {results['baseline']}" if "baseline" in results else "")
        + f". {machine['cores']} cores of {machine['processor']} "
        f"({machine['processor_kind']}), {machine['memory_gib']} GiB, no GPU used; "
        f"{machine['system']}, Python {machine['python']}, {versions}. {results['repeats']} repeats of "
        f"{results['seconds']:g} s; load average before: {machine['load_before']:.1f}.",
        "## Goals",
        _goals(results),
        "## What a photo costs\n\n"
        f"CPU-ms on a processor with {machine['processor_kind']}, with the fewest clients of the closed loop. "
        "The first four parts and the network are measured alone; gateway and Triton are what their processes use "
        "beside them.",
        _costs(results),
        "## Stages alone\n\nMedian ms for all faces of a photo, and the floor: the part that cannot be avoided.",
        _stages(results),
        "## Closed loop\n\nEach client sends its next photo when it has its answer. The bound is the same work in "
        'one process without a server, on all cores. "gateway" is the time outside decoding, face detection and '
        "Triton, including the wait for a worker.",
        _closed(results),
        plots,
        "## Open loop\n\nConstant arrival rate over 256 connections. Latency counts from when a photo was due.",
        _open(results),
        TRIED + tried.partition(TRIED)[2].rstrip(),
    ]
    return "\n\n".join(parts) + "\n"


def _goals(results: Results) -> str:
    """Return the table of goals, measurements and verdicts."""
    runs = [run for run in results["runs"] if run["side"] == "this"]

    def of(photo: str, **fields: float | str) -> list[Run]:
        return [run for run in runs if run["photo"] == photo and fields.items() <= run.items()]

    rows: list[list[str]] = []

    def goal(what: str, wanted: float, unit: str, found: Sequence[Run], value: Callable[[Run], float]) -> None:
        if not found:
            rows.append([what, "", "not measured", ""])
            return
        measured, is_minimum = _median(found, value), unit.startswith("of ")
        reached = measured >= wanted if is_minimum else measured <= wanted
        rows.append([
            what,
            f"at {'least' if is_minimum else 'most'} {wanted:g} {unit}",
            f"{measured:.2f}" if is_minimum else f"{measured:.1f}",
            "yes" if reached else "**no**",
        ])  # fmt: skip

    def p50(run: Run) -> float:
        return float(run["latency_ms"]["p50"])

    if "one face" in results["bound"]:
        bound = median(results["bound"]["one face"])
        closed = of("one face", loop="closed")
        peak = max(
            _median([run for run in closed if run["clients"] == count], lambda run: run["throughput"])
            for count in {run["clients"] for run in closed}
        )
        alone, busy = of("one face", loop="closed", clients=1), of("one face", loop="closed", clients=32)
        over = of("one face", loop="open", share=OVERLOAD)
        goal("one face, 32 clients: throughput", 0.8, "of the bound", busy, lambda run: run["throughput"] / bound)
        goal("one face, one client: gateway, p50", 2, "ms", alone, lambda run: run["stages_ms"]["gateway"])
        goal("one face, one client: p50", 15, "ms", alone, p50)
    goal("12 Mpx, one client: p50", 90, "ms", of("12 Mpx", loop="closed", clients=1), p50)
    if "one face" in results["bound"]:
        refusing = [run for run in over if run["refusal_ms"]]
        goal("twice the capacity: answered", 0.9, "of the peak", over, lambda run: run["throughput"] / peak)
        goal("twice the capacity: 503, p99", 100, "ms", refusing, lambda run: run["refusal_ms"]["p99"])
        goal("twice the capacity: accepted, p99", 2000, "ms", over, lambda run: run["latency_ms"]["p99"])
    largest = max(run["memory"] for run in runs) / 1e6
    rows.append([
        "gateway and Triton: memory, maximum over all loops", "at most 1200 MB", f"{largest:.0f}",
        "yes" if largest <= 1200 else "**no**",
    ])  # fmt: skip
    return _table(["what", "goal", "measured", "reached"], rows)


def _costs(results: Results) -> str:
    """Return the table of CPU-milliseconds by part."""
    rows = []
    for photo, stages in results["stages"].items():
        runs = [
            run for run in results["runs"] if (run["side"], run["loop"], run["photo"]) == ("this", "closed", photo)
        ]
        fewest = min(run["clients"] for run in runs)
        runs = [run for run in runs if run["clients"] == fewest]
        in_worker = [stages[name]["cpu_ms"] for name in WORKER_STAGES]
        network = stages["network"]["cpu_ms"]
        gateway, triton = (
            _median(runs, lambda run, name=name: run["cpu_ms"][name]) for name in ("gateway", "triton")
        )
        costs = [*in_worker, gateway - sum(in_worker), triton - network, network, gateway + triton]
        rows.append([photo, str(fewest), *(f"{cost:.2f}" for cost in costs)])
    return _table(["photo", "clients", *WORKER_STAGES, "gateway", "Triton", "network", "sum"], rows)


def _stages(results: Results) -> str:
    names = list(next(iter(results["stages"].values())))
    rows = [
        [photo, *(f"{stages[name]['ms']:.2f} / {stages[name]['floor_ms']:.2f}" for name in names)]
        for photo, stages in results["stages"].items()
    ]
    return _table(["photo", *(f"{name} / floor" for name in names)], rows)


def _closed(results: Results) -> str:
    rows = []
    for (photo, clients, side), runs in _grouped(results, "closed", lambda run: run["clients"]):
        throughput = [run["throughput"] for run in runs]
        bound = median(results["bound"][photo])
        rows.append([
            photo,
            str(clients),
            TITLES[side],
            f"{median(throughput):.1f} ({min(throughput):.1f} to {max(throughput):.1f})",
            f"{median(throughput) / bound:.2f} of {bound:.1f}",
            *_latencies(runs, "latency_ms"),
            f"{_median(runs, lambda run: run['stages_ms'].get('gateway', 0)):.1f}",
            " + ".join(
                f"{_median(runs, lambda run, name=name: run['cpu_ms'][name]):.1f}"
                for name in ("gateway", "triton", "client")
            ),
            f"{_median(runs, lambda run: run['mean_batch']):.1f}",
            f"{_median(runs, lambda run: run['memory']) / 1e6:.0f}",
            str(sum(run["refused"] for run in runs)),
        ])  # fmt: skip
    head = ["photo", "clients", "side", "photos/s (range)", "of the bound", "p50 ms", "p95 ms", "p99 ms"]
    return _table([*head, "gateway p50 ms", "CPU ms gateway + Triton + client", "batch", "MB", "503"], rows)


def _open(results: Results) -> str:
    rows = []
    for (photo, share, side), runs in _grouped(results, "open", lambda run: run["share"]):
        refusals = [run for run in runs if run["refusal_ms"]]
        rows.append([
            photo,
            TITLES[side],
            f"{share:g} of the peak = {_median(runs, lambda run: run['rate']):.1f}/s",
            f"{_median(runs, lambda run: run['throughput']):.1f}",
            *_latencies(runs, "latency_ms"),
            f"{_median(runs, lambda run: run['refused'] / max(1, run['refused'] + run['answered'])):.0%}",
            " / ".join(_latencies(refusals, "refusal_ms")) if refusals else "",
            f"{_median(runs, lambda run: run['memory_before']) / 1e6:.0f} to "
            f"{_median(runs, lambda run: run['memory']) / 1e6:.0f}",
        ])  # fmt: skip
    head = ["photo", "side", "arrivals", "answered/s", "p50 ms", "p95 ms", "p99 ms", "503"]
    return _table([*head, "503: p50 / p95 / p99 ms", "MB before and after"], rows)


def plot_name(photo: str) -> str:
    """Return the file name of a photo's plot."""
    return f"{photo.replace(' ', '-')}.png"


def plot(results: Results, folder: Path) -> None:
    """Plot throughput and latency over the number of clients, one figure per photo."""
    for photo, bounds in results["bound"].items():
        figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
        for side in ("this", "baseline"):
            groups = [
                (clients, runs)
                for (name, clients, of), runs in _grouped(results, "closed", lambda run: run["clients"])
                if (name, of) == (photo, side) and all(run["latency_ms"] for run in runs)
            ]
            if not groups:
                continue
            clients = [count for count, _ in groups]
            middle = [_median(runs, lambda run: run["throughput"]) for _, runs in groups]
            low, high = ([f(run["throughput"] for run in runs) for _, runs in groups] for f in (min, max))
            left.plot(clients, middle, marker="o", label=TITLES[side])
            left.fill_between(clients, low, high, alpha=0.2)
            for percentile, style in (("p50", "-"), ("p99", ":")):
                times = [_median(runs, lambda run, p=percentile: run["latency_ms"][p]) for _, runs in groups]
                right.plot(clients, times, style, marker="o", label=f"{TITLES[side]}, {percentile}")
        left.axhline(median(bounds), color="grey", linestyle="--", label="in one process, no server")
        left.set(xscale="log", xlabel="clients", ylabel="photos/s", ylim=(0, None), title=photo)
        right.set(xscale="log", yscale="log", xlabel="clients", ylabel="latency, ms", title=photo)
        for axes in (left, right):
            axes.legend()
            axes.grid(alpha=0.3)
        figure.savefig(folder / plot_name(photo), dpi=100)
        plt.close(figure)


def _grouped(
    results: Results, loop: str, key: Callable[[Run], Any]
) -> Iterable[tuple[tuple[str, Any, str], list[Run]]]:
    """Group the runs of a loop by photo, ``key`` and side, sorted by photo and ``key``."""
    groups: dict[tuple[str, Any, str], list[Run]] = {}
    order = sorted(
        (run for run in results["runs"] if run["loop"] == loop),
        key=lambda run: (list(results["bound"]).index(run["photo"]), key(run)),
    )
    for run in order:
        groups.setdefault((run["photo"], key(run), run["side"]), []).append(run)
    return groups.items()


def _latencies(runs: Sequence[Run], name: str) -> list[str]:
    answered = [run for run in runs if run[name]]
    if not answered:
        return ["", "", ""]
    return [f"{_median(answered, lambda run, p=p: run[name][p]):.1f}" for p in ("p50", "p95", "p99")]


def _median(runs: Iterable[Run], value: Callable[[Run], float]) -> float:
    return float(median(value(run) for run in runs))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
