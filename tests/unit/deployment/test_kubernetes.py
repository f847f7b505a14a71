"""Checks of the rendered manifests that a schema cannot make."""

import math
import re
import shutil
from pathlib import Path

import pytest
import yaml
from deployment_tools import ROOT
from manifests import (
    CHART_VALUES,
    K8S,
    VARIANTS,
    Object,
    containers,
    named,
    of,
    pods,
    port_names,
    quantity,
    render,
    render_chart,
    render_folder,
)
from programs import missing

from service.settings import Settings, environment_name
from service.triton import container as launcher

KUBERNETES = "1.34"
FOREIGN = {"ScaledObject", "ServiceMonitor", "PrometheusRule"}
"""Kinds of KEDA and the Prometheus operator, whose schemas are not available."""


@pytest.fixture(params=[*VARIANTS, *(f"chart:{variant}" for variant in VARIANTS)])
def objects(request: pytest.FixtureRequest) -> list[Object]:
    kind, _, variant = request.param.rpartition(":")
    return render_chart(*CHART_VALUES[variant]) if kind else render(variant)


def test_schemas() -> None:
    try:
        import kubernetes_validate  # noqa: PLC0415
    except ImportError:
        missing("kubernetes-validate is not installed")
    rendered = [each for variant in VARIANTS for each in render(variant) + render_chart(*CHART_VALUES[variant])]
    distinct = {yaml.safe_dump(each): each for each in rendered}
    for each in distinct.values():
        if each["kind"] not in FOREIGN:
            # Raises for unknown fields, kinds and versions.
            assert kubernetes_validate.validate(each, KUBERNETES, strict=True) == KUBERNETES


def test_names_are_unique_and_everything_is_in_one_namespace(objects: list[Object]) -> None:
    names = [(each["kind"], each["metadata"]["name"]) for each in objects]
    assert len(set(names)) == len(names)
    spaces = {each["metadata"].get("namespace") for each in objects if each["kind"] != "Namespace"}
    assert spaces == {"tandem"}


def test_selectors_match(objects: list[Object]) -> None:
    for deployment in of(objects, "Deployment"):
        selector = deployment["spec"]["selector"]["matchLabels"]
        assert pods(objects, selector) == [deployment["spec"]["template"]]
        for spread in deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]:
            assert spread["labelSelector"]["matchLabels"] == selector
    for service in of(objects, "Service"):
        assert len(pods(objects, service["spec"]["selector"])) == 1
    for budget in of(objects, "PodDisruptionBudget"):
        assert len(pods(objects, budget["spec"]["selector"]["matchLabels"])) == 1
        assert budget["spec"]["maxUnavailable"] == 1, "minAvailable would block draining the node of a single pod"
    for monitor in of(objects, "ServiceMonitor"):
        labels = monitor["spec"]["selector"]["matchLabels"]
        (service,) = [
            each for each in of(objects, "Service") if labels.items() <= each["metadata"]["labels"].items()
        ]
        ports = {port["name"] for port in service["spec"]["ports"]}
        assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= ports


def test_ports_exist(objects: list[Object]) -> None:
    for service in of(objects, "Service"):
        (pod,) = pods(objects, service["spec"]["selector"])
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= port_names(pod)
    for container in containers(objects):
        for port in container.get("ports", []):
            assert 1024 <= port["containerPort"] <= 65535
    gateway = named(objects, "Deployment", "tandem-gateway")["spec"]["template"]["spec"]["containers"][0]
    listening = {port["name"]: port["containerPort"] for port in gateway["ports"]}
    settings = settings_of(objects)
    assert listening == {"http": settings.port, "operations": settings.operations_port}
    triton = named(objects, "Deployment", "tandem-triton")["spec"]["template"]["spec"]["containers"][0]
    listening = {port["name"]: port["containerPort"] for port in triton["ports"]}
    assert listening == {"grpc": launcher.GRPC_PORT, "metrics": launcher.METRICS_PORT}


def test_every_container_is_probed(objects: list[Object]) -> None:
    for deployment in of(objects, "Deployment"):
        for container in deployment["spec"]["template"]["spec"]["containers"]:
            names = {port["name"] for port in container["ports"]}
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                probe = container[kind]
                assert ("exec" in probe) != ("httpGet" in probe)
                assert probe.get("httpGet", {}).get("port", next(iter(names))) in names
    paths = {
        kind: named(objects, "Deployment", "tandem-gateway")["spec"]["template"]["spec"]["containers"][0][kind][
            "httpGet"
        ]["path"]
        for kind in ("startupProbe", "readinessProbe", "livenessProbe")
    }
    assert paths == {"startupProbe": "/livez", "readinessProbe": "/readyz", "livenessProbe": "/livez"}, (
        "a gateway must not be restarted because Triton is unavailable"
    )


def test_tritons_probe_is_at_its_path_in_the_images(objects: list[Object]) -> None:
    triton = named(objects, "Deployment", "tandem-triton")["spec"]["template"]["spec"]["containers"][0]
    command = triton["readinessProbe"]["exec"]["command"]
    for dockerfile in ("Dockerfile.triton-cpu", "nvidia/Dockerfile"):
        text = (ROOT / "docker" / dockerfile).read_text()
        assert f"COPY service/triton/container.py {command[2]}" in text
    assert command[3:] == ["probe"]


def test_requests_are_within_limits(objects: list[Object]) -> None:
    for container in containers(objects):
        resources = container["resources"]
        assert {"cpu", "memory", "ephemeral-storage"} <= set(resources["limits"])
        for name, request in resources["requests"].items():
            assert quantity(request) <= quantity(resources["limits"][name]), (container["name"], name)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_namespace_refuses_other_pods(variant: str) -> None:
    (namespace,) = of(render(variant), "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_pods_are_restricted(objects: list[Object]) -> None:
    for account in of(objects, "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False
    for workload in of(objects, "Deployment", "Job"):
        pod = workload["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert named(objects, "ServiceAccount", pod["serviceAccountName"])
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 10000
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert not [volume for volume in pod["volumes"] if "hostPath" in volume]
    for container in containers(objects):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_each_deployment_has_at_most_one_autoscaler(objects: list[Object]) -> None:
    targets = [
        each["spec"]["scaleTargetRef"]["name"] for each in of(objects, "HorizontalPodAutoscaler", "ScaledObject")
    ]
    assert len(set(targets)) == len(targets), "two autoscalers of one Deployment conflict"
    for deployment in of(objects, "Deployment"):
        scaled = deployment["metadata"]["name"] in targets
        # A number in the manifest would override the autoscaler at every apply.
        assert ("replicas" in deployment["spec"]) != scaled
    for name in targets:
        assert named(objects, "Deployment", name)
    for scaler in of(objects, "HorizontalPodAutoscaler"):
        assert 2 <= scaler["spec"]["minReplicas"] < scaler["spec"]["maxReplicas"]
        assert scaler["spec"]["metrics"]


def test_policies_deny_by_default_and_refer_to_existing_pods(objects: list[Object]) -> None:
    policies = [each["spec"] for each in of(objects, "NetworkPolicy")]
    deny = named(objects, "NetworkPolicy", "default-deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for policy in policies:
        chosen = pods(objects, policy["podSelector"].get("matchLabels", {}))
        assert chosen
        for rule in policy.get("ingress", []):
            for pod in chosen:
                assert {port["port"] for port in rule["ports"]} <= port_names(pod)
        for rule in policy.get("egress", []):
            for peer in rule["to"]:
                if "podSelector" not in peer or "namespaceSelector" in peer:
                    continue
                for pod in pods(objects, peer["podSelector"]["matchLabels"]):
                    assert {port["port"] for port in rule["ports"]} <= port_names(pod)
        for rule in policy.get("ingress", []):
            for peer in rule.get("from", []):
                if "namespaceSelector" not in peer:
                    assert pods(objects, peer["podSelector"]["matchLabels"])
    assert reaches(objects, "tandem-gateway", "tandem-triton", "grpc")
    assert not reaches(objects, "tandem-gateway", "tandem-triton", "metrics")
    assert not reaches(objects, "tandem-triton", "tandem-gateway", "operations")


def reaches(objects: list[Object], source: str, target: str, port: str) -> bool:
    """Return whether the policies allow connections from one Deployment to a port of another, on both sides."""
    labels = {
        name: named(objects, "Deployment", name)["spec"]["template"]["metadata"]["labels"]
        for name in (source, target)
    }

    def allowed(direction: str, peers: str, own: str, other: str) -> bool:
        for policy in (each["spec"] for each in of(objects, "NetworkPolicy")):
            if not policy["podSelector"].get("matchLabels", {}).items() <= labels[own].items():
                continue
            for rule in policy.get(direction, []):
                matching = [
                    peer
                    for peer in rule.get(peers, [{}])
                    if "namespaceSelector" not in peer
                    and peer.get("podSelector", {}).get("matchLabels", {}).items() <= labels[other].items()
                ]
                if matching and port in {each["port"] for each in rule["ports"]}:
                    return True
        return False

    return allowed("egress", "to", source, target) and allowed("ingress", "from", target, source)


def environment(objects: list[Object]) -> dict[str, str]:
    """Return the environment of the gateway's container; values that the cluster fills in are "1"."""
    (container,) = named(objects, "Deployment", "tandem-gateway")["spec"]["template"]["spec"]["containers"]
    values: dict[str, str] = {}
    for source in container["envFrom"]:
        values |= named(objects, "ConfigMap", source["configMapRef"]["name"])["data"]
    return values | {each["name"]: each.get("value", "1") for each in container["env"]}


def settings_of(objects: list[Object]) -> Settings:
    prefix = environment_name("")
    # The files exist only in the container.
    given = {name: value for name, value in environment(objects).items() if not name.endswith("_FILE")}
    return Settings(**{name.removeprefix(prefix).lower(): value for name, value in given.items()})


def test_every_variable_is_a_setting(objects: list[Object]) -> None:
    known = {environment_name(field) for field in Settings.model_fields}
    assert set(environment(objects)) <= known
    settings = settings_of(objects)
    triton = named(objects, "Service", "tandem-triton")
    ports = {port["name"]: port["port"] for port in triton["spec"]["ports"]}
    assert settings.triton_url == f"dns:///{triton['metadata']['name']}:{ports['grpc']}"
    assert triton["spec"]["clusterIP"] == "None", "with a single address only one Triton is used"


def test_a_pod_has_time_to_finish(objects: list[Object]) -> None:
    settings = settings_of(objects)
    gateway = named(objects, "Deployment", "tandem-gateway")["spec"]["template"]["spec"]
    assert settings.drain_s >= 2 * gateway["containers"][0]["readinessProbe"]["periodSeconds"]
    assert gateway["terminationGracePeriodSeconds"] > settings.drain_s + settings.request_timeout_s + 1
    triton = named(objects, "Deployment", "tandem-triton")["spec"]["template"]["spec"]
    wait = int(triton["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert triton["terminationGracePeriodSeconds"] > wait + launcher.EXIT_TIMEOUT_S


def test_rollouts_start_a_new_pod_before_stopping_an_old_one_unless_it_has_the_gpu(objects: list[Object]) -> None:
    for deployment in of(objects, "Deployment"):
        limits = deployment["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
        surge = int("nvidia.com/gpu" not in limits)
        rolling = deployment["spec"]["strategy"]["rollingUpdate"]
        assert rolling == {"maxSurge": surge, "maxUnavailable": 1 - surge}


def test_the_gateways_memory_covers_what_the_operations_guide_counts(objects: list[Object]) -> None:
    settings = settings_of(objects)
    (gateway,) = named(objects, "Deployment", "tandem-gateway")["spec"]["template"]["spec"]["containers"]
    limits = {name: quantity(value) for name, value in gateway["resources"]["limits"].items()}
    processes = (1 + math.ceil(limits["cpu"])) * 90e6
    assert settings.max_held_bytes + settings.max_decoding_bytes + processes <= limits["memory"]


def test_every_clusters_dns_is_allowed(objects: list[Object]) -> None:
    (rule,) = named(objects, "NetworkPolicy", "dns")["spec"]["egress"]
    assert {(port["port"], port["protocol"]) for port in rule["ports"]} >= {
        (53, "UDP"),
        (53, "TCP"),
        (5353, "UDP"),
    }
    assert not any("podSelector" in peer for peer in rule["to"]), (
        "CoreDNS has different labels in different clusters"
    )


def test_argo_cd_can_replace_the_job(objects: list[Object]) -> None:
    for job in of(objects, "Job"):
        assert "Replace=true" in job["metadata"]["annotations"]["argocd.argoproj.io/sync-options"]


def test_the_operator_selects_monitors_and_rules(objects: list[Object]) -> None:
    for each in of(objects, "ServiceMonitor", "PrometheusRule"):
        assert each["metadata"]["labels"] == {"release": "kube-prometheus-stack"}


def test_images_are_pinned(objects: list[Object]) -> None:
    for container in containers(objects):
        _, _, tag = container["image"].rpartition("/")[2].partition(":")
        assert tag
        assert tag != "latest"


def test_mounted_volumes_exist(objects: list[Object]) -> None:
    for workload in of(objects, "Deployment", "Job"):
        pod = workload["spec"]["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for volume in pod["volumes"]:
            if "persistentVolumeClaim" in volume:
                assert named(objects, "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])
            if "configMap" in volume:
                assert named(objects, "ConfigMap", volume["configMap"]["name"])
        mounted = {
            mount["name"]
            for container in [*pod.get("initContainers", []), *pod["containers"]]
            for mount in container.get("volumeMounts", [])
        }
        assert mounted == volumes
    for container in containers(objects):
        for source in container.get("envFrom", []):
            if "configMapRef" in source:
                assert named(objects, "ConfigMap", source["configMapRef"]["name"])


def test_only_triton_gets_the_gpu() -> None:
    claims = {
        container["name"]: container["resources"]["limits"].get("nvidia.com/gpu")
        for container in containers(render("gpu"))
    }
    assert claims == {"gateway": None, "models": None, "triton": "1"}
    images = {container["name"]: container["image"] for container in containers(render("gpu"))}
    assert images["triton"].startswith("tandem-triton:")


def test_triton_is_scaled_on_its_queue_if_the_metric_is_available() -> None:
    for variant in ("cpu+prometheus-adapter", "gpu+prometheus-adapter"):
        scaler = named(render(variant), "HorizontalPodAutoscaler", "tandem-triton")
        (metric,) = scaler["spec"]["metrics"]
        rules = yaml.safe_load((K8S / "components/prometheus-adapter/adapter-rules.yaml").read_text())
        served = {rule["name"]["as"] for rule in rules["rules"]["custom"]}
        assert metric["pods"]["metric"]["name"] in served
    for variant in ("cpu+keda", "gpu+keda"):
        trigger = named(render(variant), "ScaledObject", "tandem-triton")["spec"]["triggers"][0]
        assert "nv_inference_queue_duration_us" in trigger["metadata"]["query"]


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_queries_follow_the_namespace(overlay: str, tmp_path: Path) -> None:
    shutil.copytree(K8S, tmp_path / "k8s")
    folder = tmp_path / "k8s" / "overlays" / overlay
    with (folder / "kustomization.yaml").open("a") as file:
        file.write("namespace: faces\ncomponents: [../../components/keda]\n")
    queries = [
        trigger["metadata"]["query"]
        for scaler in of(render_folder(folder), "ScaledObject")
        for trigger in scaler["spec"]["triggers"]
        if trigger["type"] == "prometheus"
    ]
    assert [re.findall(r'namespace="(.*?)"', query) for query in queries] == [["faces"], ["faces", "faces"]]
    assert [re.findall(r'model="(.*?)"', query) for query in queries] == [[], ["tandem", "tandem"]]
