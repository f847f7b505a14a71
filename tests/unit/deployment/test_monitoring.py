"""Checks that rules and dashboard are valid and query only metrics that are exported."""

import functools
import json
import os
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from deployment_tools import ROOT, find_tool

from service.inference.shadow import ShadowMetrics
from service.observability.metrics import Metrics
from service.workers.metrics import WorkerMetrics

PROMETHEUS = ROOT / "docker" / "prometheus"
TESTS = ("rules.test.yml", "rules.days.test.yml")
RULES = yaml.safe_load((PROMETHEUS / "rules.yml").read_text())
DASHBOARD = json.loads((ROOT / "docker" / "grafana" / "dashboards" / "tandem.json").read_text())

# Metrics of Triton 24.10 that we use; it exports those of a GPU only if it has one.
TRITON = {
    "nv_inference_request_success",
    "nv_inference_request_failure",
    "nv_inference_count",
    "nv_inference_exec_count",
    "nv_inference_request_duration_us",
    "nv_inference_queue_duration_us",
    "nv_inference_compute_input_duration_us",
    "nv_inference_compute_infer_duration_us",
    "nv_inference_compute_output_duration_us",
    "nv_inference_pending_request_count",
    "nv_cpu_utilization",
    "nv_gpu_utilization",
    "nv_gpu_memory_used_bytes",
    "nv_gpu_memory_total_bytes",
}
PROMETHEUS_OWN = {"up", "ALERTS"}
NAME = re.compile(r"\b(?:tandem_|nv_|process_)\w+|\btandem:[\w:]+|\bup\b|\bALERTS\b")


@functools.cache
def exported() -> set[str]:
    """Return every name by which a gateway's metrics can be queried."""
    names = set()
    registry = Metrics().registry
    ShadowMetrics(registry)
    registry.register(WorkerMetrics(lambda: [os.getpid()]))
    for family in registry.collect():
        suffixes = {
            "counter": ["_total"],
            "histogram": ["_bucket", "_sum", "_count"],
            "info": ["_info"],
        }.get(family.type, [""])
        names |= {family.name + suffix for suffix in suffixes}
    return names


def rules() -> Iterator[dict[str, Any]]:
    for group in RULES["groups"]:
        yield from group["rules"]


def recorded() -> set[str]:
    return {rule["record"] for rule in rules() if "record" in rule}


def expressions() -> dict[str, str]:
    found = {rule.get("alert") or rule["record"]: rule["expr"] for rule in rules()}
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            found[f"{panel['title']} {target['refId']}"] = target["expr"]
    keda = ROOT / "k8s" / "components" / "keda" / "scaledobjects.yaml"
    for scaled in yaml.safe_load_all(keda.read_text()):
        for trigger in scaled["spec"]["triggers"]:
            if trigger["type"] == "prometheus":
                found[f"KEDA {scaled['metadata']['name']}"] = trigger["metadata"]["query"]
    adapter = ROOT / "k8s" / "components" / "prometheus-adapter" / "adapter-rules.yaml"
    for rule in yaml.safe_load(adapter.read_text())["rules"]["custom"]:
        found[f"adapter {rule['name']['as']}"] = f"{rule['seriesQuery']} {rule['metricsQuery']}"
    return found


@pytest.mark.parametrize(("where", "expression"), expressions().items(), ids=list(expressions()))
def test_queried_metrics_are_exported(where: str, expression: str) -> None:
    used = set(NAME.findall(re.sub(r'"[^"]*"', '""', expression)))
    assert used, where
    assert used <= exported() | recorded() | TRITON | PROMETHEUS_OWN


@pytest.mark.parametrize(
    "arguments",
    [["check", "rules", "rules.yml"], ["check", "config", "prometheus.yml"], ["test", "rules", *TESTS]],
)
def test_promtool(arguments: list[str]) -> None:
    result = subprocess.run(
        [*find_tool("promtool"), *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_alert_is_tested_and_documented() -> None:
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    tests = [test for name in TESTS for test in yaml.safe_load((PROMETHEUS / name).read_text())["tests"]]
    fired = {case["alertname"] for test in tests for case in test.get("alert_rule_test", []) if case["exp_alerts"]}
    assert fired == alerts
    guide = (ROOT / "docs" / "operations.md").read_text()
    assert {name for name in alerts if f"`{name}`" not in guide} == set()
    for rule in rules():
        if "alert" in rule:
            assert rule["labels"]["severity"] in ("page", "ticket")


def test_the_operator_gets_the_same_rules() -> None:
    (resource,) = yaml.safe_load_all((ROOT / "k8s/components/servicemonitor/rules.yaml").read_text())
    assert resource["spec"] == RULES


def test_panels_without_data_say_so() -> None:
    for panel in DASHBOARD["panels"]:
        if panel["type"] == "stat":
            assert panel["fieldConfig"]["defaults"]["noValue"] == "no data"
            # Only what Prometheus itself knows is zero when nothing is scraped.
            assert ("vector(0)" in panel["targets"][0]["expr"]) == (panel["title"] == "Alerts")


def test_the_dashboard_can_be_provisioned() -> None:
    source = yaml.safe_load((ROOT / "docker/grafana/provisioning/datasources/prometheus.yaml").read_text())[
        "datasources"
    ][0]
    places = []
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        places += [
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        ]
        assert place["x"] + place["w"] <= 24
        for target in panel.get("targets", []):
            assert target["datasource"] == {"type": source["type"], "uid": source["uid"]}
    assert len(set(places)) == len(places), "panels overlap"
    identifiers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(identifiers)) == len(identifiers)
