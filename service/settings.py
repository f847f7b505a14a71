"""Settings of the service, read from ``TANDEM_*`` environment variables and a TOML file."""

import ipaddress
import json
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import Field, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from service.api_keys import KeyRing

MEBIBYTE = 1024 * 1024

CONFIG_VARIABLE = "TANDEM_CONFIG"
DEFAULT_CONFIG = "tandem.toml"

NO_KEY = "has no key; without this setting the API is open to everyone"

PACKAGE = Path(__file__).parent
CHECKOUT = PACKAGE.parent if (PACKAGE.parent / "pyproject.toml").exists() else None
"""The folder of the source code; None where the service is installed from a wheel or an image."""

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""A container's CPU quota (cgroup v2): microseconds of CPU time, and the period in which they may be used."""


FETCH_HOST = re.compile(r"(\*\.)?[a-z0-9-]+(\.[a-z0-9-]+)*|s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


def default_model_repository() -> Path:
    """Return the checkout's model repository, else the one that a wheel brings."""
    return (CHECKOUT or PACKAGE) / "model_repository"


def default_triton_home() -> Path:
    """Return ``.triton`` in the checkout, else a folder of this user's data (XDG Base Directory Specification)."""
    if CHECKOUT:
        return CHECKOUT / ".triton"
    return Path(os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")) / "tandem"


def available_cores() -> int:
    """Return how many CPU cores this process may use, at least 1; a container's quota is taken into account."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        cores = os.cpu_count() or 1
    try:
        quota, period = CPU_QUOTA.read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or a quota of "max"
        return cores


class ConfigUnusable(Exception):
    """The TOML file cannot be read, or is not valid TOML."""


def config_path() -> Path | None:
    """Return the TOML file: ``TANDEM_CONFIG``, else ``tandem.toml`` in the current folder, else None."""
    named = os.environ.get(CONFIG_VARIABLE)
    if named:
        return Path(named)
    return Path(DEFAULT_CONFIG) if Path(DEFAULT_CONFIG).exists() else None


def read_config() -> dict[str, Any]:
    """Read the TOML file; returns an empty dictionary if there is none.

    Raises:
        ConfigUnusable: it cannot be read, or is not valid TOML.
    """
    path = config_path()
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigUnusable(f"{path} cannot be read: {error.strerror} ({CONFIG_VARIABLE})") from None
    except ValueError as error:
        raise ConfigUnusable(f"{path} is not valid TOML: {error}") from None


class Settings(BaseSettings):
    """Settings of the gateway and of the local Triton.

    Each field is ``TANDEM_<NAME>`` in the environment and ``<name>`` in the TOML file; the environment wins.
    """

    model_config = SettingsConfigDict(env_prefix="TANDEM_", frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Prefer arguments to the environment, and the environment to the TOML file."""
        return init_settings, env_settings, InitSettingsSource(settings_cls, read_config())

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Minimum log level.")

    operations_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Separate port for /livez, /readyz and /metrics, which the main port then does not serve; "
        "0 picks a free one. If unset, the main port serves them.",
    )

    api_keys: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Accepted API keys, as a JSON list of the lines that `tandem create-key` prints. "
        "Without any key, here or in api_keys_file, the API is open to everyone.",
        repr=False,
    )
    api_keys_file: Path | None = Field(
        None,
        description="File with one such line per key; # starts a comment. If unset, only api_keys are used; "
        "a file without a key is an error, and /dev/null says that none are wanted.",
    )
    rate_limit: int | None = Field(
        None,
        ge=1,
        description="Maximum photos in rate_window_s seconds per API key, or per client address if there are "
        "no keys. If unset, there is no limit.",
    )
    rate_window_s: float = Field(
        60.0, gt=0, le=86_400, description="Length of the rate limit's window, in seconds."
    )
    concurrent_limit: int | None = Field(
        None,
        ge=1,
        description="Maximum concurrent requests per API key or client address. If unset, there is no limit.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Origins whose pages may call the API, as a JSON list such as "
        '["https://example.org"]; ["*"] allows all. If empty, only the service\'s own page may.',
    )

    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        ("127.0.0.1", "::1"),
        description="Addresses or networks of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed, "
        'as a JSON list such as ["10.0.0.0/8"]. They decide whose address a request counts for.',
    )
    keep_alive_s: float = Field(
        75.0,
        gt=0,
        le=86_400,
        description="Seconds that an idle connection is kept open for further requests. It must be longer than a "
        "load balancer in front keeps its own, often 60 s.",
    )

    otlp_endpoint: str | None = Field(
        None,
        pattern=r"^https?://",
        description="Base URL of an OpenTelemetry collector that accepts OTLP over HTTP; requires the extra otel. "
        "If unset, no spans are recorded.",
    )

    triton_url: str | None = Field(
        None, description="host:port of the gRPC endpoint of a Triton. If unset, a local Triton is started."
    )
    triton_proxy: str | None = Field(
        None,
        pattern=r"^http://",
        description="URL of an HTTP proxy to reach triton_url through. If unset, none is used.",
    )
    model_name: str = Field("tandem", description="Name of the model in Triton.")
    model_version: str = Field(
        "", pattern=r"^\d*$", description="Model version to use. If empty, Triton chooses, by default the newest."
    )
    shadow_version: str = Field(
        "",
        pattern=r"^\d*$",
        description="Model version that gets copies of requests to compare its results, which are never returned; "
        "requires model_version. If empty, nothing is copied.",
    )
    shadow_share: float = Field(
        1.0, ge=0, le=1, description="Share of the requests that are copied to shadow_version, from 0 to 1."
    )
    model_repository: Path = Field(
        default_model_repository(), description="Folder of the models that the local Triton serves."
    )
    runtime: Literal["auto", "onnx", "torchscript"] = Field(
        "auto",
        description="Runtime of the local Triton: onnx needs no torch, torchscript uses a GPU; "
        "auto is torchscript on a GPU and onnx on a CPU.",
    )
    triton_home: Path = Field(
        default_triton_home(), description="Folder that the local Triton is installed in, once."
    )

    max_upload_bytes: int = Field(20 * MEBIBYTE, ge=1024, description="Maximum size of an upload, in bytes.")
    max_batch_photos: int = Field(100, ge=1, description="Maximum number of photos in a batch.")
    max_batch_bytes: int = Field(
        128 * MEBIBYTE,
        ge=1024,
        description="Maximum size of a batch, in bytes, both as uploaded and unpacked. It is held in memory.",
    )
    max_batches: int = Field(
        2, ge=1, description="Maximum number of batches processed concurrently; more are refused with 503."
    )
    batch_upload_timeout_s: float = Field(
        120.0, gt=0, description="Maximum time to receive the body of a batch, in seconds."
    )
    batch_patience_s: float = Field(
        60.0,
        gt=0,
        description="Maximum time that a photo of a batch waits while single photos go first, in seconds.",
    )
    max_held_bytes: int = Field(
        384 * MEBIBYTE,
        ge=1024,
        description="Maximum memory for uploads of all requests together, in bytes; more are refused with 503. "
        "One caller may hold two thirds.",
    )
    fetch_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Where photos may be fetched from by their URL, as a JSON list of hosts and buckets such as "
        '["photos.example.org", "*.example.com", "s3://bucket"]; buckets need the extra s3. '
        "If empty, no photo is fetched.",
    )
    fetch_timeout_s: float = Field(
        10.0,
        gt=0,
        description="Maximum time to fetch a photo by its URL, in seconds; part of upload_timeout_s.",
    )
    max_fetches: int = Field(
        16, ge=1, description="Maximum number of photos that are fetched concurrently; more are refused with 503."
    )
    max_pixels: int = Field(
        50_000_000,
        ge=1,
        description="Maximum size of a photo, in pixels (width x height). A JPEG in RGB or gray that is not "
        "progressive may have five times as many: it is read at half its width and height.",
    )
    max_decoding_bytes: int = Field(
        1024 * MEBIBYTE,
        ge=1,
        description="Maximum memory for decoded photos, in bytes, over all workers; a photo waits until it fits.",
    )
    max_faces: int = Field(
        100, ge=1, description="Maximum number of faces returned per photo; the largest are kept."
    )
    detection_threshold: float = Field(
        0.6, ge=0.05, le=1, description="Minimum detection score of a face, unless a request sets its own."
    )

    workers: int = Field(
        min(available_cores(), 256),
        ge=1,
        le=256,
        description="Worker processes, which decode photos and find faces. By default, one per available core.",
    )
    max_waiting: int = Field(
        64, ge=0, description="Maximum number of photos that wait for a worker; more are refused with 503."
    )
    max_inferring: int = Field(
        1024, ge=1, description="Maximum number of photos that wait for Triton; more are refused with 503."
    )
    more_views: bool = Field(
        True,
        description="Read a face whose two likeliest emotions are close from three more views, and answer with "
        "the mean. Labels are right more often and hold better when a face moves; such a face costs four times as "
        "much in Triton.",
    )
    max_streams: int = Field(32, ge=0, description="Maximum number of open streams; 0 disables streaming.")
    max_frame_bytes: int = Field(
        2 * MEBIBYTE, ge=1024, description="Maximum size of a frame of a stream, in bytes."
    )
    max_frames_per_s: float = Field(
        60.0, gt=0, description="Maximum frames per second of a stream; a faster stream is closed."
    )
    stream_idle_s: float = Field(60.0, gt=0, description="Seconds without a frame after which a stream is closed.")
    upload_timeout_s: float = Field(
        20.0,
        gt=0,
        description="Maximum time to receive a request's headers and body, in seconds; part of request_timeout_s.",
    )
    request_timeout_s: float = Field(
        30.0, gt=0, description="Maximum time from the arrival of a request's headers to its answer, in seconds."
    )
    start_timeout_s: float = Field(
        60.0,
        gt=0,
        description="Maximum time from the start of a local Triton to its first successful inference, in seconds.",
    )
    drain_s: float = Field(
        0.0,
        ge=0,
        description="Seconds after SIGTERM during which requests are still accepted while /readyz answers 503, "
        "so that load balancers stop sending requests before the port closes.",
    )

    @field_validator("*", mode="before")
    @classmethod
    def _check_not_empty(cls, value: object, info: ValidationInfo) -> object:
        # An empty address would be all addresses, and an empty path the current folder.
        if isinstance(value, str) and not value.strip() and cls.model_fields[info.field_name or ""].default != "":
            raise ValueError("must not be empty; leave it unset for the default")
        return value

    @field_validator("api_keys", "cors_origins", "fetch_hosts", "trusted_proxies", mode="before")
    @classmethod
    def _parse_list(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError('must be a JSON list of texts, such as ["one", "two"]') from None

    @field_validator("trusted_proxies")
    @classmethod
    def _check_proxies(cls, addresses: tuple[str, ...]) -> tuple[str, ...]:
        for address in addresses:
            try:
                ipaddress.ip_network(address)
            except ValueError as error:
                raise ValueError(f"has something else than an address or a network: {error}") from None
        return addresses

    @field_validator("fetch_hosts")
    @classmethod
    def _check_fetch_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not FETCH_HOST.fullmatch(host):
                raise ValueError(
                    f"has {host!r}, which is neither a host such as photos.example.org or *.example.org, in lower "
                    "case and without a scheme, nor a bucket such as s3://photos"
                )
        return hosts

    @field_validator("shadow_version")
    @classmethod
    def _check_shadow_version(cls, version: str, info: ValidationInfo) -> str:
        # Without a pinned version the gateway uses Triton's newest, which may be the shadow itself.
        if version and info.data.get("model_version", "") in ("", version):
            raise ValueError("a different version must be pinned (TANDEM_MODEL_VERSION)")
        return version

    @field_validator("max_held_bytes")
    @classmethod
    def _check_held_bytes(cls, value: int, info: ValidationInfo) -> int:
        # The decoded photo of a JSON body takes three quarters of its base64 text; both are held for a moment.
        # One caller can hold two thirds.
        largest = max(4 * info.data.get("max_upload_bytes", 0), info.data.get("max_batch_bytes", 0) * 3 // 2)
        if value < largest:
            raise ValueError(
                f"must be at least {largest} bytes: one and a half times a maximum batch "
                "(TANDEM_MAX_BATCH_BYTES), and four times a maximum upload (TANDEM_MAX_UPLOAD_BYTES)"
            )
        return value

    @field_validator("request_timeout_s")
    @classmethod
    def _check_request_timeout(cls, value: float, info: ValidationInfo) -> float:
        upload_s = info.data.get("upload_timeout_s", 0.0)
        if value <= upload_s:
            raise ValueError(
                f"must be longer than an upload may take, {upload_s:g} s (TANDEM_UPLOAD_TIMEOUT_S), "
                "to leave time for the answer"
            )
        return value

    @field_validator("api_keys")
    @classmethod
    def _check_keys(cls, lines: tuple[str, ...]) -> tuple[str, ...]:
        if lines and not KeyRing.from_lines(lines).keys:
            raise ValueError(NO_KEY)
        return lines

    @field_validator("api_keys_file")
    @classmethod
    def _check_keys_file(cls, path: Path | None) -> Path | None:
        if path is not None:
            try:
                ring = KeyRing.from_lines(path.read_text(encoding="utf-8").splitlines())
            except OSError as error:
                raise ValueError(f"cannot be read: {error.strerror}") from None
            except UnicodeDecodeError:
                raise ValueError("cannot be read: it is not text") from None
            # Compose mounts /dev/null where no keys are wanted; an empty file may be one whose keys got lost.
            if not ring.keys and not path.is_char_device():
                raise ValueError(NO_KEY)
        return path


def environment_name(field: str) -> str:
    """Return the environment variable of a field, such as ``TANDEM_MAX_PIXELS`` for ``max_pixels``."""
    return f"{Settings.model_config.get('env_prefix', '')}{field}".upper()


def origin_of(field: str, value: object) -> str:
    """Where a field's value comes from: "environment", the TOML file's name, "option" or "default"."""
    if environment_name(field) in {name.upper() for name in os.environ}:
        return "environment"
    if field in read_config():
        return str(config_path())
    return "default" if value == Settings.model_fields[field].default else "option"


def allowed(field: FieldInfo) -> str:
    """Describe the allowed values, such as "0 to 65535", "above 0" or "debug, info"; empty without a limit."""
    if get_origin(field.annotation) is Literal:
        return ", ".join(map(str, get_args(field.annotation)))
    limits = {}
    for constraint in field.metadata:
        for name in ("ge", "gt", "le", "lt", "pattern"):
            if getattr(constraint, name, None) is not None:
                limits[name] = getattr(constraint, name)
    low = f"{limits['ge']:g}" if "ge" in limits else f"above {limits['gt']:g}" if "gt" in limits else ""
    if "pattern" in limits:
        return f"matches {limits['pattern']}"
    if "le" in limits:
        return f"{low} to {limits['le']:g}"
    return f"{low} or more" if "ge" in limits else low
