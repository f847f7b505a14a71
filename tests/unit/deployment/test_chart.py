"""The Helm chart gives the same objects as the overlays and components of kustomize."""

import copy
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from deployment_tools import helm
from manifests import CHART, CHART_VALUES, VARIANTS, Object, named, of, render, render_chart

from service import __version__


def comparable(objects: list[Object]) -> dict[tuple[str, str], Object]:
    """Return objects by kind and name, without what each tool adds so that new settings restart pods.

    kustomize adds a hash to the names of generated ConfigMaps; the chart adds annotations to the pods.
    """
    generated = {each["metadata"]["name"] for each in of(objects, "ConfigMap")}
    text = json.dumps(objects)
    for name in generated:
        text = text.replace(f'"{name}"', json.dumps(re.sub(r"-[a-z0-9]{10}$", "", name)))
    found = json.loads(text)
    for each in found:
        annotations = each.get("spec", {}).get("template", {}).get("metadata", {}).get("annotations", {})
        for name in [name for name in annotations if name.startswith("checksum/")]:
            del annotations[name]
        if not annotations and each["kind"] in ("Deployment", "Job"):
            each["spec"]["template"]["metadata"].pop("annotations", None)
    return {(each["kind"], each["metadata"]["name"]): each for each in found}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_chart_gives_the_same_objects(variant: str) -> None:
    expected = comparable(render(variant))
    # Helm creates the namespace: --create-namespace.
    expected = {name: each for name, each in expected.items() if each["kind"] != "Namespace"}
    found = comparable(render_chart(*CHART_VALUES[variant]))
    assert set(found) == set(expected)
    for name in expected:
        assert differences(found[name], expected[name]) == [], name


def differences(found: Any, expected: Any, path: str = "") -> list[str]:
    """Return where two documents differ; lists of named things may differ in their order."""
    if isinstance(found, dict) and isinstance(expected, dict):
        keys = found.keys() | expected.keys()
        return [line for key in keys for line in differences(found.get(key), expected.get(key), f"{path}.{key}")]
    if isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        if all(isinstance(each, dict) and "name" in each for each in found + expected):
            found, expected = (sorted(each, key=lambda one: str(one["name"])) for each in (found, expected))
        pairs = zip(found, expected, strict=True)
        return [line for i, pair in enumerate(pairs) for line in differences(*pair, f"{path}[{i}]")]
    found, expected = (None if each == [] else each for each in (found, expected))  # kustomize leaves empty lists
    return [] if found == expected else [f"{path}: {found!r} in the chart, {expected!r} in the overlay"]


def test_lint() -> None:
    for variant in VARIANTS:
        command = [helm(), "lint", "--strict", str(CHART), *CHART_VALUES[variant]]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr


def test_the_version_is_that_of_the_service() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


def test_a_packaged_chart_holds_all_that_it_needs(tmp_path: Path) -> None:
    subprocess.run([helm(), "package", str(CHART), "-d", str(tmp_path)], capture_output=True, check=True)
    (package,) = tmp_path.glob("*.tgz")
    values = "--set=monitoring=true,models.from=object-store"
    assert render_chart(values, chart=package) == render_chart(values)


def test_every_value_is_described_and_has_a_default() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    for path, part in described(schema, schema):
        assert part.get("description"), path
    assert set(schema["properties"]) - {"global"} == set(defaults)
    for name, part in schema["properties"].items():
        if part.get("additionalProperties") is False:
            assert set(part["properties"]) == set(defaults[name])


def described(schema: Object, part: Object, path: str = "") -> Iterator[tuple[str, Object]]:
    """Yield each property of a schema with its path."""
    for name, value in part.get("properties", {}).items():
        yield f"{path}.{name}", value
        reference = value.get("$ref", "").rpartition("/")[2]
        yield from described(schema, {**schema["definitions"].get(reference, {}), **value}, f"{path}.{name}")


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ("tritn.gpu=true", "tritn"),
        ("autoscaling=memory", "/autoscaling"),
        ("gateway.replicas.min=0", "/gateway/replicas/min"),
        ("settings.LOG_LEVEL=debug", "LOG_LEVEL"),
        ("settings.TANDEM_OPERATIONS_PORT=9000", "TANDEM_OPERATIONS_PORT"),
        ("models.digest=1", "/models/digest"),
    ],
)
def test_wrong_values_are_refused(values: str, complaint: str) -> None:
    command = [helm(), "template", "tandem", str(CHART), f"--set-string={values}"]
    if values.endswith(("true", "0")):
        command[-1] = f"--set={values}"
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert complaint in result.stderr


def test_images_come_from_the_registry_or_by_digest() -> None:
    digest = "elsewhere.example.org/gateway@sha256:" + "0" * 64
    objects = render_chart(f"--set=registry=registry.example.org/faces/,images.gateway={digest}")
    images = {
        name: named(objects, "Deployment", name)["spec"]["template"]["spec"]["containers"][0]["image"]
        for name in ("tandem-gateway", "tandem-triton")
    }
    assert images == {
        "tandem-gateway": digest,
        "tandem-triton": f"registry.example.org/faces/tandem-triton-cpu:{__version__}",
    }


def test_new_settings_restart_the_pods_and_give_them_time() -> None:
    def pod(*arguments: str) -> Object:
        template = named(render_chart(*arguments), "Deployment", "tandem-gateway")["spec"]["template"]
        return copy.deepcopy(template)

    plain, patient = pod(), pod("--set-string=settings.TANDEM_REQUEST_TIMEOUT_S=59.5")
    assert plain["metadata"]["annotations"] != patient["metadata"]["annotations"]
    seconds = [each["spec"]["terminationGracePeriodSeconds"] for each in (plain, patient)]
    assert seconds == [50, 80]
