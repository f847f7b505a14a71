"""The KServe example: KServe's pods are the base's, so that its Service, policies and budget apply to them."""

import re

import pytest
from deployment_tools import ROOT
from manifests import K8S, Object, named, of, render, render_folder

from service.triton import container as launcher

LABELS = {"app.kubernetes.io/name": "tandem-triton"}


@pytest.fixture(scope="module")
def objects() -> list[Object]:
    return render_folder(K8S / "examples" / "kserve")


def test_the_container_is_that_of_the_base(objects: list[Object]) -> None:
    (found,) = named(objects, "ServingRuntime", "tandem-triton")["spec"]["containers"]
    pod = named(render("cpu"), "Deployment", "tandem-triton")["spec"]["template"]["spec"]
    (expected,) = pod["containers"]
    assert found["name"] == "kserve-container", "KServe wants this name"
    for field in expected.keys() - {"name", "ports", "volumeMounts"}:
        assert found[field] == expected[field], field
    ports = [{key: port[key] for key in ("name", "containerPort")} for port in found["ports"]]
    assert ports == expected["ports"]
    # KServe mounts the models itself.
    own = [mount for mount in expected["volumeMounts"] if mount["name"] != "models"]
    assert found["volumeMounts"] == own
    volumes = named(objects, "ServingRuntime", "tandem-triton")["spec"]["volumes"]
    assert volumes == [volume for volume in pod["volumes"] if volume["name"] != "models"]


def test_its_arguments_are_those_of_the_image_with_other_models(objects: list[Object]) -> None:
    (container,) = named(objects, "ServingRuntime", "tandem-triton")["spec"]["containers"]
    image = (ROOT / "docker" / "Dockerfile.triton-cpu").read_text()
    (arguments,) = re.findall(r"^CMD \[(.*)\]$", image, re.MULTILINE)
    assert container["args"][1:] == re.findall(r'"(.*?)"', arguments)
    line = launcher.command(container["args"])
    assert [each for each in line if each.startswith("--model-repository=")] == ["--model-repository=/mnt/models"]


def test_the_bases_objects_choose_its_pods(objects: list[Object]) -> None:
    assert [each["metadata"]["name"] for each in of(objects, "Deployment")] == ["tandem-gateway"]
    predictor = named(objects, "InferenceService", "tandem")["spec"]["predictor"]
    assert predictor["labels"] == LABELS
    assert predictor["model"]["runtime"] == "tandem-triton"
    runtime = named(objects, "ServingRuntime", "tandem-triton")["spec"]
    assert predictor["model"]["protocolVersion"] in runtime["protocolVersions"]
    assert named(objects, "Service", "tandem-triton")["spec"]["selector"] == LABELS
    for kind, field in (("NetworkPolicy", "podSelector"), ("PodDisruptionBudget", "selector")):
        assert named(objects, kind, "tandem-triton")["spec"][field]["matchLabels"] == LABELS
    pod = named(render("cpu"), "Deployment", "tandem-triton")["spec"]["template"]["spec"]
    for field in ("securityContext", "serviceAccountName", "terminationGracePeriodSeconds", "enableServiceLinks"):
        assert predictor[field] == pod[field]
