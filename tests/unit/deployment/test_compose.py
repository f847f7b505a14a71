"""Checks of docker/compose.yaml that Compose itself only makes when it runs."""

import re
from typing import Any

import pytest
import yaml
from deployment_tools import ROOT
from programs import missing

from service.settings import Settings, environment_name
from service.triton import container as launcher

DOCKER = ROOT / "docker"
TEXT = (DOCKER / "compose.yaml").read_text()
VARIABLE = re.compile(r"\$\{([A-Z_]+):-([^}]*)\}")

Service = dict[str, Any]


def defaults(text: str) -> str:
    """Replace each ``${NAME:-default}`` with its default."""
    return VARIABLE.sub(lambda match: match[2], text)


COMPOSE = yaml.safe_load(defaults(TEXT))
SERVICES: dict[str, Service] = COMPOSE["services"]


def test_schema() -> None:
    try:
        import compose_spec  # noqa: PLC0415
    except ImportError:
        missing("compose-spec is not installed")
    resolved = {key: value for key, value in COMPOSE.items() if not key.startswith("x-")}
    parsed = compose_spec.PyCompose.from_yaml(yaml.dump(resolved, Dumper=yaml.SafeDumper))
    parsed.validate()
    assert sorted(parsed.service_names()) == sorted(SERVICES)


def test_every_variable_has_a_default() -> None:
    assert "$" not in VARIABLE.sub("", TEXT)


def test_the_default_profile_is_gateway_and_cpu_triton() -> None:
    variables = dict(
        line.split("=", 1)
        for line in (DOCKER / ".env").read_text().splitlines()
        if line and not line.startswith("#")
    )
    profiles = variables["COMPOSE_PROFILES"].split(",")
    started = {name for name, each in SERVICES.items() if set(each.get("profiles", profiles)) & set(profiles)}
    assert started == {"gateway", "triton-cpu"}
    assert SERVICES["triton-gpu"]["profiles"] == ["gpu"]
    rest = set(SERVICES) - started - {"triton-gpu"}
    assert all(SERVICES[name]["profiles"] == ["observability"] for name in rest)


@pytest.mark.parametrize("name", SERVICES)
def test_services_are_hardened(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "network_mode", "pid", "ipc", "devices"} & set(service)
    limits = service["deploy"]["resources"]["limits"]
    assert {"cpus", "memory", "pids"} <= set(limits)
    for volume in service.get("volumes", []):
        source, read_only = (
            (volume["source"], volume.get("read_only"))
            if isinstance(volume, dict)
            else (volume.split(":")[0], volume.endswith(":ro"))
        )
        assert read_only or source in COMPOSE["volumes"], f"the container can write to {source} on the host"


def test_only_gateway_and_grafana_are_published_and_only_on_loopback() -> None:
    published = {name: each["ports"] for name, each in SERVICES.items() if "ports" in each}
    assert published == {"gateway": ["127.0.0.1:8080:8080"], "grafana": ["127.0.0.1:3000:3000"]}
    assert COMPOSE["networks"]["back"]["internal"] is True
    for name in ("triton-cpu", "triton-gpu", "prometheus"):
        assert list(SERVICES[name]["networks"]) == ["back"]


def test_both_tritons_have_the_host_name_that_the_gateway_uses() -> None:
    host, port = SERVICES["gateway"]["environment"]["TANDEM_TRITON_URL"].split(":")
    assert int(port) == launcher.GRPC_PORT
    for name in ("triton-cpu", "triton-gpu"):
        assert SERVICES[name]["networks"]["back"]["aliases"] == [host]
        assert SERVICES["gateway"]["depends_on"][name] == {"condition": "service_healthy", "required": False}


def test_dependencies_have_a_health_check() -> None:
    for service in SERVICES.values():
        for name in service.get("depends_on", {}):
            other = SERVICES[name]
            if "healthcheck" not in other:
                assert "HEALTHCHECK --interval" in (ROOT / other["build"]["dockerfile"]).read_text()


def test_every_variable_of_the_gateway_is_a_setting() -> None:
    names = {environment_name(field): field for field in Settings.model_fields}
    given = SERVICES["gateway"]["environment"]
    assert set(given) <= set(names)
    # The files exist only in the container.
    Settings(**{names[name]: value for name, value in given.items() if value and not name.endswith("_FILE")})


def test_every_variable_mentioned_anywhere_is_a_setting() -> None:
    names = {environment_name(field) for field in Settings.model_fields}
    paths = [*DOCKER.rglob("*"), *(ROOT / "k8s").rglob("*"), ROOT / "docs" / "operations.md"]
    for path in paths:
        if path.is_file() and "secrets" not in path.parts:
            assert set(re.findall(r"TANDEM_[A-Z_]+[A-Z]", path.read_text())) <= names, path


def test_secrets_are_files_and_used() -> None:
    used = {
        secret
        for service in SERVICES.values()
        for secret in [*service.get("secrets", []), *service.get("build", {}).get("secrets", [])]
    }
    assert used == set(COMPOSE["secrets"])
    assert all(set(secret) == {"file"} for secret in COMPOSE["secrets"].values())
    assert SERVICES["gateway"]["environment"]["TANDEM_API_KEYS_FILE"] == "/run/secrets/api_keys"
    words = re.compile("PASSWORD|TOKEN|KEY", re.IGNORECASE)
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            assert not words.search(name) or value is None or value.startswith("/run/secrets/"), name


def test_images_are_pinned_and_built_from_files_that_exist() -> None:
    for service in SERVICES.values():
        _, _, tag = service["image"].rpartition("/")[2].partition(":")
        assert tag
        assert tag != "latest"
        if "build" in service:
            dockerfile = ROOT / service["build"]["dockerfile"]
            declared = set(re.findall(r"^ARG (\w+)", dockerfile.read_text(), re.MULTILINE))
            assert set(service["build"]["args"]) <= declared


def test_mounted_files_exist() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume["source"] if isinstance(volume, dict) else volume.split(":")[0]
            assert source in COMPOSE["volumes"] or (DOCKER / source).exists(), source


def test_the_gateway_has_time_to_finish() -> None:
    settings = Settings()
    grace = int(SERVICES["gateway"]["stop_grace_period"].removesuffix("s"))
    assert grace > settings.drain_s + settings.request_timeout_s + 1
    for name in ("triton-cpu", "triton-gpu"):
        assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > launcher.EXIT_TIMEOUT_S


def test_prometheus_scrapes_gateway_and_triton() -> None:
    config = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]}
    assert targets["tandem-gateway"] == ["gateway:8080"]
    assert targets["tandem-triton"] == [f"triton:{launcher.METRICS_PORT}"]
