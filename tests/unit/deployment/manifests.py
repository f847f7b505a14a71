"""Renders the manifests as `kubectl apply -k` does, and looks things up in them."""

import functools
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from deployment_tools import ROOT, find_tool, helm

K8S = ROOT / "k8s"
VARIANTS = (
    "cpu",
    "gpu",
    "local",
    "cpu+keda",
    "gpu+keda",
    "cpu+prometheus-adapter",
    "gpu+prometheus-adapter",
    "cpu+api-keys+servicemonitor",
    "cpu+models-pvc",
    "cpu+otlp",
    "gpu+models-object-store",
)

CHART = K8S / "chart"
CHART_VALUES: dict[str, list[str]] = {
    "cpu": [],
    "gpu": ["--set=triton.gpu=true"],
    "local": [f"--values={CHART}/values-local.yaml"],
    "cpu+keda": ["--set=autoscaling=keda"],
    "gpu+keda": ["--set=triton.gpu=true,autoscaling=keda"],
    "cpu+prometheus-adapter": ["--set=autoscaling=prometheus-adapter"],
    "gpu+prometheus-adapter": ["--set=triton.gpu=true,autoscaling=prometheus-adapter"],
    "cpu+api-keys+servicemonitor": ["--set=apiKeysSecret=tandem-api-keys,monitoring=true"],
    "cpu+otlp": ["--set=settings.TANDEM_OTLP_ENDPOINT=http://opentelemetry-collector.monitoring.svc:4318"],
    "cpu+models-pvc": ["--set=models.from=volume"],
    "gpu+models-object-store": ["--set=triton.gpu=true,models.from=object-store"],
}
"""The chart's values that give what a variant of the overlays and components gives."""

Object = dict[str, Any]


@functools.cache
def render(variant: str) -> list[Object]:
    """Render an overlay with components, such as "cpu+keda"; returns its objects."""
    overlay, *components = variant.split("+")
    with tempfile.TemporaryDirectory() as folder:
        # kustomize does not accept absolute paths.
        base = os.path.relpath(K8S, Path(folder).resolve())
        content = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [f"{base}/overlays/{overlay}"],
            "components": [f"{base}/components/{component}" for component in components],
        }
        Path(folder, "kustomization.yaml").write_text(yaml.safe_dump(content))
        return render_folder(Path(folder))


def render_folder(folder: Path) -> list[Object]:
    """Render the kustomization in a folder; returns its objects."""
    kustomize = find_tool("kustomize build", "kubectl kustomize")
    result = subprocess.run([*kustomize, str(folder)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return list(yaml.safe_load_all(result.stdout))


@functools.cache
def render_chart(*arguments: str, chart: Path = CHART) -> list[Object]:
    """Render the Helm chart into the namespace tandem; returns its objects."""
    command = [helm(), "template", "tandem", str(chart), "--namespace=tandem", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return [each for each in yaml.safe_load_all(result.stdout) if each]


def of(objects: list[Object], *kinds: str) -> list[Object]:
    return [each for each in objects if each["kind"] in kinds]


def named(objects: list[Object], kind: str, name: str) -> Object:
    (found,) = [each for each in of(objects, kind) if each["metadata"]["name"] == name]
    return found


def pods(objects: list[Object], selector: dict[str, str]) -> list[Object]:
    """Return the pod templates that a selector matches; an empty selector matches all."""
    templates = [each["spec"]["template"] for each in of(objects, "Deployment", "Job")]
    return [each for each in templates if selector.items() <= each["metadata"]["labels"].items()]


def containers(objects: list[Object]) -> Iterator[Object]:
    for workload in of(objects, "Deployment", "Job"):
        spec = workload["spec"]["template"]["spec"]
        yield from spec.get("initContainers", [])
        yield from spec["containers"]


def port_names(pod: Object) -> set[str]:
    return {port["name"] for each in pod["spec"]["containers"] for port in each.get("ports", [])}


def quantity(value: str | int) -> float:
    """Parse a Kubernetes quantity: ``500m`` is 0.5, ``2Gi`` is 2147483648."""
    units = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
    number, unit = re.fullmatch(r"([0-9.]+)([a-zA-Z]*)", str(value)).groups()  # type: ignore[union-attr]
    return float(number) * units[unit]
