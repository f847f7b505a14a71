"""Every hostile file gets a typed answer within limits of time and memory, in a process and over HTTP."""

import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
from gateways import gateway

from service.triton.server import LocalTriton

from .corpus import corpus

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    # timeout(1) forks, so that the program does not inherit the peak memory of pytest.
    command = ["timeout", "270", sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_every_file_is_answered_within_time_and_memory() -> None:
    completed = run("tests.hostile")
    assert completed.returncode == 0, f"{completed.stdout}\n{completed.stderr[-3000:]}"
    total = next(line for line in completed.stdout.splitlines() if line.startswith("| all |"))
    assert int(total.split("|")[2]) >= 300


@pytest.mark.anyio
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
async def test_every_file_is_answered_by_http(toy_triton: LocalTriton) -> None:
    answers: Counter[tuple[int, str]] = Counter()
    async with gateway(triton_url=toy_triton.grpc_url, request_timeout_s=120) as client:
        # Every file is read in a process above; over HTTP the kinds of answers count.
        for file in islice(corpus(), 0, None, 5):
            response = await client.post(
                "/v1/emotions", content=file.data, headers={"Content-Type": "image/jpeg", "X-Request-ID": "r"}
            )
            context = f"{file.kind}: {file.name}: {response.text[:500]}"
            answer = response.json()
            if response.status_code == 200:
                assert answer["image"]["width"] >= 1, context
                answers[200, "faces" if answer["faces"] else "no faces"] += 1
                continue
            assert response.headers["Content-Type"] == "application/problem+json", context
            assert (response.status_code, answer["status"]) == (answer["status"], response.status_code), context
            assert answer["request_id"] == "r", context
            answers[response.status_code, answer["type"].rpartition(":")[2]] += 1
        assert (await client.get("/readyz")).status_code == 200
    assert {status for status, _ in answers} == {200, 400, 413, 415, 422}, answers


def test_fuzzing_finds_nothing(tmp_path: Path) -> None:
    completed = run(
        "tests.hostile.fuzz",
        str(tmp_path / "files"),
        "-runs=250",
        "-seed=1",
        "-timeout=60",
        "-rss_limit_mb=2048",
        "-max_len=100000",
        f"-artifact_prefix={tmp_path}/",
    )
    assert completed.returncode == 0, completed.stderr[-3000:]
    assert "Done 250 runs" in completed.stderr
