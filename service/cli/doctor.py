"""`tandem doctor`: what is here, what is wrong, and how to put it right. It changes nothing and starts nothing."""

import hashlib
import json
import os
import platform
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from pydantic import ValidationError
from pydantic_settings import SettingsError
from rich.table import Table
from rich.text import Text

from service import __version__
from service.cli.console import counted
from service.cli.gateway import is_listening, url_of
from service.cli.model_versions import VersionChangeRefused, VersionedModel
from service.cli.settings_errors import format_errors, unknown_variables
from service.client import CallFailed, Client, Refused
from service.errors import install_command
from service.settings import ConfigUnusable, Settings, available_cores, config_path
from service.triton import install
from service.triton.errors import LocalTritonError
from service.triton.server import has_gpu
from service.vision.weights import ONET, YUNET, read_weights

State = Literal["ok", "note", "problem"]

STYLES: Final = {"ok": "green", "note": "yellow", "problem": "bold red"}

CPU_FLAGS: Final = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "bfloat16"}
"""Names in /proc/cpuinfo of what the networks are fast with."""

CHECKSUMS: Final = {"model.onnx": "onnx_sha256", "model.pt": "sha256"}
"""A version's weights, and the field of its model card that holds their checksum."""

PROXIES: Final = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")

EXTRAS: Final = {
    "video": ("av", "matplotlib"),
    "tables": ("pyarrow",),
    "buckets": ("fsspec", "pyarrow"),
    "mcp": ("mcp",),
    "s3": ("botocore",),
    "otel": ("opentelemetry.sdk",),
    "torchscript": ("torch",),
    "training": ("torch", "lightning", "jsonargparse", "tensorboard", "safetensors", "onnx"),
    "timm": ("timm",),
}
"""Optional dependencies, and the modules that they install."""

TIMEOUT_S = 2.0

WORKS: Final = (HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND)
"""What a gateway that works answers when it is asked for its model without a key, and on its operations port."""


@dataclass(frozen=True)
class Finding:
    """What one check found; a problem keeps the service from working, and ``remedy`` says what to do."""

    name: str
    state: State
    text: str
    remedy: str = ""


def examine() -> Iterator[Finding]:
    """Yield what each check finds. If settings are invalid, the defaults are checked."""
    settings, finding = _settings()
    yield finding
    yield _python()
    yield _processor()
    yield _triton(settings)
    if settings.triton_url is None:
        yield _model(settings)
    yield _face_networks()
    yield _port("port", settings.host, settings.port, "TANDEM_PORT")
    if settings.operations_port is not None:
        yield _port("operations port", settings.host, settings.operations_port, "TANDEM_OPERATIONS_PORT")
    yield _proxies()
    yield _extras()


def findings_table(findings: list[Finding]) -> Table:
    """Return a table of findings that fits 80 columns, with each remedy below what it is for."""
    table = Table.grid("state", "name", "text", padding=(0, 2, 0, 0))
    for finding in findings:
        text = Text(finding.text, overflow="fold")
        if finding.remedy:
            text.append(f"\n-> {finding.remedy}", style="bold")
        table.add_row(Text(finding.state, style=STYLES[finding.state]), finding.name, text)
    return table


def _settings() -> tuple[Settings, Finding]:
    misspelled, unknown = unknown_variables()
    where = f"the environment and {config_path()}" if config_path() else "the environment; there is no tandem.toml"
    try:
        settings = Settings()
    except ValidationError as error:
        wrong = [*format_errors(error), *misspelled]
    except (ConfigUnusable, SettingsError) as error:
        wrong = [str(error), *misspelled]
    else:
        if not misspelled:
            state: State = "note" if unknown else "ok"
            text = "\n".join([f"Tandem {__version__}; settings from {where}", *unknown])
            return settings, Finding("settings", state, text)
        wrong = misspelled
    remedy = "`tandem settings --help` and docs/operations.md; below, defaults are checked"
    return Settings.model_construct(), Finding("settings", "problem", "\n".join(wrong), remedy)


def _python() -> Finding:
    interpreter = f"{platform.python_implementation()} {platform.python_version()}"
    name = f"{interpreter} on {platform.system()} {platform.machine()}, {' '.join(platform.libc_ver())}"
    try:
        install.check_platform()
        install.find_libpython()
    except LocalTritonError as error:
        remedy = "use another Python or machine, or set TANDEM_TRITON_URL to a Triton elsewhere"
        return Finding("Python", "problem", f"{name}: {error}", remedy)
    return Finding("Python", "ok", name)


def _processor() -> Finding:
    lines = _read(Path("/proc/cpuinfo")).splitlines()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = fields.get("flags", "").split()
    fast = [label for flag, label in CPU_FLAGS.items() if flag in flags]
    cores = available_cores()
    parts = [
        fields.get("model name", platform.machine()),
        counted(cores, "core"),
        " ".join(fast) or "no AVX2",
        "an NVIDIA GPU" if has_gpu() else "no GPU",
    ]
    text = ", ".join(parts)
    if has_gpu() and find_spec("torch") is None:
        return Finding("processor", "note", text, f"to use the GPU: {install_command('torchscript')}")
    if not fast:
        return Finding("processor", "note", text, "the networks run, but several times slower than with AVX2")
    return Finding("processor", "ok", text)


def _triton(settings: Settings) -> Finding:
    if settings.triton_url is None:
        try:
            return Finding("Triton", "ok", f"installed in {install.installed(settings.triton_home)}")
        except LocalTritonError as error:
            return Finding("Triton", "problem", str(error), "tandem install-triton")
    host, _, port = settings.triton_url.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), TIMEOUT_S).close()
    except ValueError:
        return Finding("Triton", "problem", f"TANDEM_TRITON_URL is {settings.triton_url!r}", "use host:port")
    except OSError as error:
        text = f"nothing answers at {settings.triton_url} (TANDEM_TRITON_URL): {error.strerror or error}"
        return Finding(
            "Triton", "problem", text, "start that Triton, or unset TANDEM_TRITON_URL to start one here"
        )
    return Finding("Triton", "ok", f"something listens at {settings.triton_url} (TANDEM_TRITON_URL)")


def _model(settings: Settings) -> Finding:
    remedy = "set TANDEM_MODEL_REPOSITORY and TANDEM_MODEL_NAME"
    try:
        model = VersionedModel(settings.model_repository, settings.model_name)
        version = int(settings.model_version or model.active)
    except (VersionChangeRefused, OSError) as error:
        return Finding("model", "problem", str(error), remedy)
    folder = model.folder / f"{version}"
    weights = [name for name in CHECKSUMS if (folder / name).is_file()]
    if not weights:
        return Finding("model", "problem", f"{folder} has none of {', '.join(CHECKSUMS)}", remedy)
    card = folder / "model_card.json"
    if not card.is_file():
        return Finding("model", "note", f"{folder} has no {card.name}, so that its weights are not verified")
    try:
        expected = json.loads(card.read_bytes())["export"]
        wrong = [name for name in weights if expected.get(CHECKSUMS[name]) != _sha256(folder / name)]
    except (OSError, ValueError, LookupError, AttributeError) as error:
        return Finding(
            "model", "problem", f"{card} cannot be read: {error!r}", "copy or export that version again"
        )
    if wrong:
        text = f"{', '.join(wrong)} in {folder}: not the checksum of the model card"
        return Finding("model", "problem", text, "copy or export that version again")
    text = f"{settings.model_name} version {version} ({', '.join(weights)}) in {folder}"
    if has_gpu() and "model.pt" not in weights:
        remedy = "to use the GPU: set TANDEM_MODEL_REPOSITORY to the model_repository of the source code"
        return Finding("model", "note", f"{text}; wheels leave out model.pt, which a GPU needs", remedy)
    return Finding("model", "ok", text)


def _face_networks() -> Finding:
    try:
        for weights in (YUNET, ONET):
            read_weights(weights)
    except (OSError, ValueError) as error:
        return Finding("face networks", "problem", str(error), "install Tandem again")
    return Finding("face networks", "ok", "YuNet and ONet are intact")


def _port(name: str, host: str, port: int, setting: str) -> Finding:
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if port == 0:
        return Finding(name, "ok", "any free one")
    url = url_of(host, port)
    if is_listening(url):
        try:
            with Client(url, timeout_s=TIMEOUT_S, api_key=os.environ.get("TANDEM_API_KEY")) as client:
                model = client.model()
            return Finding(name, "ok", f"a gateway runs at {url}, with {model.name} version {model.version}")
        except Refused as error:
            if error.status in WORKS:
                return Finding(name, "ok", f"a gateway runs at {url}")
            return Finding(name, "problem", f"a gateway runs at {url}, but {error}", "its log says more")
        except CallFailed as error:
            return Finding(name, "problem", f"{shown} is taken: {error}", f"stop that program, or set {setting}")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        text = f"cannot listen on {shown}: {error.strerror or error}"
        return Finding(name, "problem", text, f"set TANDEM_HOST to an address of this machine, or {setting}")
    return Finding(name, "ok", f"{shown} is free")


def _proxies() -> Finding:
    found = []
    for name in PROXIES:
        value = os.environ.get(name) or os.environ.get(name.upper())
        if value:  # a proxy's URL may hold a password
            found.append(f"{name}={value if name == 'no_proxy' else _host_of(value)}")
    if not found:
        return Finding("proxy", "ok", "none in the environment")
    text = f"{', '.join(found)}: for pip and for gateways elsewhere; not used on this machine, nor for Triton"
    return Finding("proxy", "note", text, "a Triton behind a proxy needs TANDEM_TRITON_PROXY")


def _host_of(url: str) -> str:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    return parts.netloc.rpartition("@")[2]


def _extras() -> Finding:
    missing = [name for name, modules in EXTRAS.items() if not all(map(_is_here, modules))]
    here = [name for name in EXTRAS if name not in missing]
    text = "; ".join(
        f"{what}: {', '.join(names)}" for what, names in (("here", here), ("not here", missing)) if names
    )
    return Finding("extras", "ok", text, f"if you need one: {install_command(missing[0])}" if missing else "")


def _is_here(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it is in
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
