"""The examples of an Ingress and of the Gateway API: they lead to the gateway, and their limits suit it."""

import re

import kubernetes_validate
import yaml
from manifests import K8S, named, render

from service.settings import Settings

SERVICE = named(render("cpu"), "Service", "tandem-gateway")
SETTINGS = Settings()


def test_the_ingress_lets_through_what_the_gateway_takes() -> None:
    ingress = yaml.safe_load((K8S / "examples" / "ingress.yaml").read_text())
    assert kubernetes_validate.validate(ingress, "1.34", strict=True)
    (path,) = ingress["spec"]["rules"][0]["http"]["paths"]
    backend = path["backend"]["service"]
    assert backend["name"] == SERVICE["metadata"]["name"]
    assert backend["port"]["name"] in {port["name"] for port in SERVICE["spec"]["ports"]}
    values = {name.rpartition("/")[2]: value for name, value in ingress["metadata"]["annotations"].items()}
    assert int(values["proxy-body-size"].removesuffix("m")) << 20 >= SETTINGS.max_batch_bytes * 4 / 3
    assert int(values["proxy-read-timeout"]) > max(SETTINGS.stream_idle_s, SETTINGS.request_timeout_s)


def test_the_routes_wait_for_the_gateways_answer() -> None:
    gateway, route = yaml.safe_load_all((K8S / "examples" / "gateway-api.yaml").read_text())
    assert route["spec"]["parentRefs"] == [{"name": gateway["metadata"]["name"]}]
    for rule in route["spec"]["rules"]:
        (backend,) = rule["backendRefs"]
        assert backend["name"] == SERVICE["metadata"]["name"]
        assert backend["port"] in {port["port"] for port in SERVICE["spec"]["ports"]}
        (seconds,) = re.findall(r"^(\d+)s$", rule["timeouts"]["request"])
        assert int(seconds) == 0 or int(seconds) > SETTINGS.request_timeout_s + 1
