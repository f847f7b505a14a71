"""Every setting of the service: one typed class, read from ``TANDEM_*`` environment variables."""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

MEBIBYTE = 1024 * 1024


class Settings(BaseSettings):
    """Settings of the gateway and of the local Triton; every field is ``TANDEM_<NAME>`` in the environment."""

    model_config = SettingsConfigDict(env_prefix="TANDEM_", frozen=True, extra="ignore")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level logged.")

    triton_url: str | None = Field(
        None, description="host:port of a Triton's gRPC endpoint. Without it a local Triton is started."
    )
    model_name: str = Field("tandem", description="Name of the model in Triton.")
    model_version: str = Field("", pattern=r"^\d*$", description="Version to use; empty for Triton's choice.")
    model_repository: Path = Field(Path("model_repository"), description="What the local Triton loads.")
    triton_home: Path = Field(Path(".triton"), description="Where `tandem install-triton` puts the local Triton.")

    max_upload_bytes: int = Field(20 * MEBIBYTE, ge=1024, description="Largest upload, in bytes.")
    max_pixels: int = Field(50_000_000, ge=1, description="Largest photo, in pixels (width x height).")
    max_faces: int = Field(100, ge=1, description="Most faces answered for one photo, largest first.")
    detection_threshold: float = Field(
        0.6, ge=0.05, le=1, description="Least detection score of a face, unless a request says otherwise."
    )

    workers: int = Field(
        os.cpu_count() or 1, ge=1, le=256, description="Threads that decode photos and find faces."
    )
    max_waiting: int = Field(
        64, ge=0, description="Photos that may wait for a thread before requests are refused with 503."
    )
    upload_timeout_s: float = Field(
        30.0, gt=0, description="Seconds that the bytes of an upload may take to arrive."
    )
    request_timeout_s: float = Field(
        10.0, gt=0, description="Seconds from the arrival of a photo's last byte to its answer, at most."
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


def environment_name(field: str) -> str:
    """The environment variable of a field: ``max_pixels`` is ``TANDEM_MAX_PIXELS``."""
    return f"{Settings.model_config.get('env_prefix', '')}{field}".upper()
