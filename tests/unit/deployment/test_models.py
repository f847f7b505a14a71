"""Delivery of the models to Triton from an image, a volume or an object store: complete or not at all."""

import hashlib
import re
import subprocess
from pathlib import Path

import pytest
from deployment_tools import ROOT
from manifests import K8S, VARIANTS, named, of, render

DOCKER = ROOT / "docker"


def test_models_from_the_image_are_complete_or_refused(tmp_path: Path) -> None:
    script = (DOCKER / "deliver-models").read_text().replace("/repository", str(tmp_path / "repository"))
    model = tmp_path / "repository" / "tandem" / "1"
    model.mkdir(parents=True)
    (model / "model.pt").write_bytes(b"weights")

    def deliver(argument: str, digest: str = "") -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["sh", "-c", script, "deliver-models", argument],
            env={"PATH": "/usr/bin:/bin", "MODELS_DIGEST": digest},
            capture_output=True,
            text=True,
            check=False,
        )

    (tmp_path / "repository" / "SHA256SUMS").write_text(deliver("sums").stdout)
    target = tmp_path / "target"
    target.mkdir()
    digest = deliver("digest").stdout.strip()
    assert re.fullmatch("[0-9a-f]{64}", digest)
    assert deliver(str(target), digest).returncode == 0
    assert (target / "tandem" / "1" / "model.pt").read_bytes() == b"weights"

    refused = deliver(str(target), "0" * 64)
    assert refused.returncode == 1
    for expected in (digest, "0" * 64, "(MODELS_DIGEST)"):
        assert expected in refused.stderr

    (model / "model.pt").write_bytes(b"others")
    torn = deliver(str(target), digest)
    assert torn.returncode == 1
    assert "model.pt" in torn.stdout + torn.stderr


@pytest.mark.parametrize("variant", VARIANTS)
def test_models_have_a_single_verified_source(variant: str) -> None:
    triton = named(render(variant), "Deployment", "tandem-triton")["spec"]["template"]["spec"]
    (volume,) = [each for each in triton["volumes"] if each["name"] == "models"]
    images = [each["image"].partition(":")[0] for each in triton.get("initContainers", [])]
    if variant.endswith("models-pvc"):
        (job,) = of(render(variant), "Job")
        assert volume["persistentVolumeClaim"]["readOnly"] is True
        assert [each["image"].partition(":")[0] for each in job["spec"]["template"]["spec"]["containers"]] == [
            "tandem-models"
        ]
        assert images == []
    else:
        assert set(volume) == {"name", "emptyDir"}
        assert images == ["rclone/rclone" if variant.endswith("object-store") else "tandem-models"]


def test_models_from_the_object_store_are_complete_or_refused(tmp_path: Path) -> None:
    store, target, programs = (tmp_path / name for name in ("store", "models", "bin"))
    for folder in (store, target, programs):
        folder.mkdir()
    # Replaces rclone, which exists only in its image: copies a folder.
    (programs / "rclone").write_text('#!/bin/sh\n[ "$1 $2" = "copy --checksum" ] && cp -R "$3/." "$4"\n')
    (programs / "rclone").chmod(0o755)
    (store / "model.pt").write_bytes(b"weights")
    sums = f"{hashlib.sha256(b'weights').hexdigest()}  ./model.pt\n"
    (store / "SHA256SUMS").write_text(sums)
    digest = hashlib.sha256(sums.encode()).hexdigest()

    def fetch(digest: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["sh", K8S / "components/models-object-store/fetch-models", target],
            env={"PATH": f"{programs}:/usr/bin:/bin", "MODELS_SOURCE": str(store), "MODELS_DIGEST": digest},
            capture_output=True,
            text=True,
            check=False,
        )

    assert fetch(digest).returncode == 0
    assert (target / "model.pt").read_bytes() == b"weights"
    for wrong in ("", "0" * 64):
        refused = fetch(wrong)
        assert refused.returncode == 1
        for expected in (digest, wrong, "(MODELS_DIGEST)"):
            assert expected in refused.stderr
    (store / "other.pt").write_bytes(b"unnamed")
    unlisted = fetch(digest)
    assert unlisted.returncode == 1
    assert "SHA256SUMS" in unlisted.stderr
    (store / "model.pt").write_bytes(b"torn")
    assert "FAILED" in fetch(digest).stdout
