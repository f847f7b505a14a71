"""Every setting of the service: one typed class, read from ``TANDEM_*`` variables and a TOML file."""

import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from service.api_keys import KeyRing

MEBIBYTE = 1024 * 1024

CONFIG_VARIABLE = "TANDEM_CONFIG"
DEFAULT_CONFIG = "tandem.toml"


CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""A container's CPU quota (cgroup v2): microseconds of CPU time, and the period in which they may be used."""


def available_cores() -> int:
    """How many CPU cores this process may use, at least 1; a container's quota is taken into account."""
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
    """The TOML file cannot be read, or is none."""


def config_path() -> Path | None:
    """The TOML file: what ``TANDEM_CONFIG`` names, else ``tandem.toml`` here; None where there is none."""
    named = os.environ.get(CONFIG_VARIABLE)
    if named:
        return Path(named)
    return Path(DEFAULT_CONFIG) if Path(DEFAULT_CONFIG).exists() else None


def read_config() -> dict[str, Any]:
    """What the TOML file holds.

    Raises:
        ConfigUnusable: it cannot be read, or is no TOML.
    """
    path = config_path()
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigUnusable(f"{path} cannot be read: {error.strerror} ({CONFIG_VARIABLE})") from None
    except ValueError as error:
        raise ConfigUnusable(f"{path} is no TOML: {error}") from None


class Settings(BaseSettings):
    """Settings of the gateway and of the local Triton.

    Every field is ``TANDEM_<NAME>`` in the environment, which goes first, and ``<name>`` in the TOML file.
    """

    model_config = SettingsConfigDict(env_prefix="TANDEM_", frozen=True, extra="forbid")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then the TOML file."""
        return init_settings, env_settings, InitSettingsSource(settings_cls, read_config())

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level logged.")

    operations_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port for /livez, /readyz and /metrics instead of the other one; 0 takes a free one.",
    )

    api_keys: tuple[str, ...] = Field(
        (),
        description="Lines of API keys as `tandem create-key` prints them, as JSON list; open without a key.",
        repr=False,
    )
    api_keys_file: Path | None = Field(None, description="File of such lines; # begins a comment.")
    rate_limit: int | None = Field(
        None,
        ge=1,
        description="Photos in rate_window_s for each key, or client address if there are no keys.",
    )
    rate_window_s: float = Field(60.0, gt=0, le=86_400, description="Seconds of the rate limit's window.")
    concurrent_limit: int | None = Field(
        None, ge=1, description="Requests at a time for each key or client address; none if unset."
    )
    cors_origins: tuple[str, ...] = Field(
        (),
        description="Origins whose pages may call the API, as JSON list: "
        '["https://example.org"]; ["*"] allows all.',
    )

    otlp_endpoint: str | None = Field(
        None,
        pattern=r"^https?://",
        description="Base URL of an OpenTelemetry collector that takes OTLP over HTTP; needs the extra otel.",
    )

    triton_url: str | None = Field(
        None, description="host:port of a Triton's gRPC endpoint. Without it a local Triton is started."
    )
    model_name: str = Field("tandem", description="Name of the model in Triton.")
    model_version: str = Field("", pattern=r"^\d*$", description="Version to use; empty for Triton's choice.")
    shadow_version: str = Field(
        "",
        pattern=r"^\d*$",
        description="Version that gets copies of requests to be compared, never answered; needs a model_version.",
    )
    shadow_share: float = Field(1.0, ge=0, le=1, description="Share of the requests that are copied to it.")
    model_repository: Path = Field(Path("model_repository"), description="What the local Triton loads.")
    triton_home: Path = Field(Path(".triton"), description="Where `tandem install-triton` puts the local Triton.")

    max_upload_bytes: int = Field(20 * MEBIBYTE, ge=1024, description="Largest upload, in bytes.")
    max_batch_photos: int = Field(100, ge=1, description="Most photos in one batch.")
    max_batch_bytes: int = Field(
        128 * MEBIBYTE, ge=1024, description="Largest batch, in bytes, packed and unpacked; held in memory."
    )
    max_batches: int = Field(2, ge=1, description="Batches worked on at a time; more are refused with 503.")
    batch_upload_timeout_s: float = Field(
        120.0, gt=0, description="Seconds that the bytes of a batch may take to arrive."
    )
    batch_patience_s: float = Field(
        60.0, gt=0, description="Seconds that a photo of a batch gives way to others' photos, at most."
    )
    max_held_bytes: int = Field(
        384 * MEBIBYTE,
        ge=1024,
        description="Bytes of uploads held at a time, over all requests; more are refused with 503.",
    )
    max_pixels: int = Field(50_000_000, ge=1, description="Largest photo, in pixels (width x height).")
    max_decoding_bytes: int = Field(
        1024 * MEBIBYTE,
        ge=1,
        description="Memory for the pixels of photos decoded at a time; a photo waits until it has room.",
    )
    max_faces: int = Field(100, ge=1, description="Most faces answered for one photo, largest first.")
    detection_threshold: float = Field(
        0.6, ge=0.05, le=1, description="Least detection score of a face, unless a request says otherwise."
    )

    workers: int = Field(
        min(available_cores(), 256),
        ge=1,
        le=256,
        description="Processes that decode photos and find faces.",
    )
    max_waiting: int = Field(
        64, ge=0, description="Photos that may wait for a process before requests are refused with 503."
    )
    max_streams: int = Field(32, ge=0, description="Streams open at a time, at most; 0 allows none.")
    max_frame_bytes: int = Field(2 * MEBIBYTE, ge=1024, description="Largest frame of a stream, in bytes.")
    max_frames_per_s: float = Field(
        60.0, gt=0, description="Frames that a stream may send in a second; a faster one is closed."
    )
    stream_idle_s: float = Field(60.0, gt=0, description="Seconds without a frame after which a stream is closed.")
    upload_timeout_s: float = Field(
        20.0, gt=0, description="Seconds of request_timeout_s that the bytes of an upload may take to arrive."
    )
    request_timeout_s: float = Field(
        30.0, gt=0, description="Seconds from the arrival of a request's head to its answer, at most."
    )
    start_timeout_s: float = Field(
        60.0, gt=0, description="Seconds to wait at start until an inference works, at most."
    )
    drain_s: float = Field(
        0.0,
        ge=0,
        description="Seconds after SIGTERM that requests are still taken while /readyz answers 503, "
        "so that load balancers look away before the port closes.",
    )

    @field_validator("shadow_version")
    @classmethod
    def _another_than_the_pinned(cls, version: str, info: ValidationInfo) -> str:
        # Unpinned, the gateway would follow Triton to the newest version, and that may be the shadow.
        if version and info.data.get("model_version", "") in ("", version):
            raise ValueError("needs another version to be pinned (TANDEM_MODEL_VERSION)")
        return version

    @field_validator("max_held_bytes")
    @classmethod
    def _room_for_the_largest(cls, value: int, info: ValidationInfo) -> int:
        # As JSON a photo is held in base64 three times while it is read.
        largest = max(4 * info.data.get("max_upload_bytes", 0), info.data.get("max_batch_bytes", 0))
        if value < largest:
            raise ValueError(
                f"must hold the largest batch, and a photo four times over: {largest} bytes "
                "(TANDEM_MAX_BATCH_BYTES, TANDEM_MAX_UPLOAD_BYTES)"
            )
        return value

    @field_validator("request_timeout_s")
    @classmethod
    def _time_for_an_answer(cls, value: float, info: ValidationInfo) -> float:
        upload_s = info.data.get("upload_timeout_s", 0.0)
        if value <= upload_s:
            raise ValueError(
                f"must leave time for an answer after an upload, which may take {upload_s:g} s "
                "(TANDEM_UPLOAD_TIMEOUT_S)"
            )
        return value

    @field_validator("api_keys")
    @classmethod
    def _key_lines(cls, lines: tuple[str, ...]) -> tuple[str, ...]:
        KeyRing.from_lines(lines)
        return lines

    @field_validator("api_keys_file")
    @classmethod
    def _key_file(cls, path: Path | None) -> Path | None:
        if path is not None:
            try:
                KeyRing.from_lines(path.read_text().splitlines())
            except OSError as error:
                raise ValueError(f"cannot be read: {error.strerror}") from None
        return path


def environment_name(field: str) -> str:
    """The environment variable of a field: ``max_pixels`` is ``TANDEM_MAX_PIXELS``."""
    return f"{Settings.model_config.get('env_prefix', '')}{field}".upper()


def origin_of(field: str, value: object) -> str:
    """Where a field's value is from: «environment», the TOML file's name, «option» or «default»."""
    if environment_name(field) in {name.upper() for name in os.environ}:
        return "environment"
    if field in read_config():
        return str(config_path())
    return "default" if value == Settings.model_fields[field].default else "option"


def allowed(field: FieldInfo) -> str:
    """What values a field takes, in words: «0 to 65535», «above 0», «debug, info, warning, error»; or nothing."""
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


def format_errors(error: ValidationError) -> Iterator[str]:
    """What is wrong with each setting: its name, its value, why, and what is allowed."""
    for fault in error.errors():
        name = str(fault["loc"][0])
        field = Settings.model_fields.get(name)
        if field is None:
            yield f"«{name}» in {config_path()} is no setting; `tandem settings` lists them"
            continue
        shown = repr(fault["input"]) if field.repr else "set"
        range_ = f" (allowed: {allowed(field)})" if allowed(field) else ""
        where = f", in {config_path()}" if origin_of(name, None) == str(config_path()) else ""
        yield f"{environment_name(name)} is {shown}: {fault['msg']}{range_}{where}"
