"""The example of a Job that scores a bucket: its shards are complete, its pods restricted, its options real."""

import kubernetes_validate
import pytest
from manifests import K8S, Object, containers, named, of, render, render_folder
from typer.main import get_command

from service.cli.main import app
from service.cli.table_folder import Shard


@pytest.fixture(scope="module")
def objects() -> list[Object]:
    return render_folder(K8S / "examples" / "bucket")


def test_each_shard_has_a_pod(objects: list[Object]) -> None:
    job = named(objects, "Job", "tandem-photos")["spec"]
    assert job["completionMode"] == "Indexed"
    (container,) = containers(objects)
    shard = container["args"][-1].removeprefix("--shard=")
    shards = [Shard.parse(shard.replace("$(JOB_COMPLETION_INDEX)", str(i))) for i in range(job["completions"])]
    assert shards == [Shard(i, job["completions"]) for i in range(job["completions"])]
    assert job["template"]["spec"]["restartPolicy"] == "Never", "backoffLimitPerIndex wants this"


def test_its_options_exist(objects: list[Object]) -> None:
    (container,) = containers(objects)
    command = get_command(app).commands["predict"]  # type: ignore[attr-defined]
    options = {option for parameter in command.params for option in parameter.opts}
    assert container["args"][0] == "predict"
    assert "--allow-failed" in container["args"], "else a broken photo would start its shard again and again"
    assert {each.partition("=")[0] for each in container["args"] if each.startswith("--")} <= options


def test_its_pods_are_restricted_as_the_services_are(objects: list[Object]) -> None:
    for each in objects:
        assert kubernetes_validate.validate(each, "1.34", strict=True)
    pod = named(objects, "Job", "tandem-photos")["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    gateway = named(render("cpu"), "Deployment", "tandem-gateway")["spec"]["template"]["spec"]
    assert pod["spec"]["securityContext"] == gateway["securityContext"]
    assert container["securityContext"] == gateway["containers"][0]["securityContext"]
    assert pod["spec"]["automountServiceAccountToken"] is False
    (policy,) = of(objects, "NetworkPolicy")
    assert policy["spec"]["podSelector"]["matchLabels"] == pod["metadata"]["labels"]
