"""The command line of a Triton container and the request of its probe; tests/deployment runs them."""

import socket

import pytest

from service.triton import container


def options(line: list[str]) -> dict[str, str]:
    return dict(each.removeprefix("--").partition("=")[::2] for each in line[1:])


def test_models_cannot_be_controlled_and_http_is_not_exposed() -> None:
    given = options(container.command([]))
    assert given["model-repository"] == "/models"
    assert given["model-control-mode"] == "poll"
    assert given["strict-readiness"] == "true"
    assert given["http-address"] == "127.0.0.1"
    assert given["grpc-address"] == given["metrics-address"] == "0.0.0.0"  # noqa: S104 - inside the container
    protocols, _, lock = given["grpc-restricted-protocol"].partition(":")
    assert set(protocols.split(",")) == set(container.LOCKED)
    assert not {"health", "metadata", "inference", "model-config"} & set(container.LOCKED), "gateways need them"
    again = options(container.command([]))["grpc-restricted-protocol"]
    assert again.partition(":")[2] != lock, "the key is random"


def test_arguments_come_last_and_can_replace_the_model_repository() -> None:
    line = container.command(["--model-repository=/a", "--log-verbose=1"])
    assert [each for each in line if each.startswith("--model-repository")] == ["--model-repository=/a"]
    assert line[-1] == "--log-verbose=1"


@pytest.mark.parametrize(("batch", "shape"), [(128, [1, 1, 48, 48]), (0, [1, 48, 48])])
def test_the_probe_sends_zeros_for_each_input(batch: int, shape: list[int]) -> None:
    config = {
        "max_batch_size": batch,
        "input": [{"name": "face", "data_type": "TYPE_UINT8", "dims": ["1", "48", "48"]}],
    }
    (tensor,) = container.zeros(config)
    assert tensor == {"name": "face", "shape": shape, "datatype": "UINT8", "data": [0] * 2304}


def test_an_unreachable_server_is_unhealthy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(container.Unhealthy, match=f"port {port}"):
        container.probe("tandem", port=port)
