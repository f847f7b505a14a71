"""The local Triton as a process: it starts, ends with its owner however that ends, and cleans up."""

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import tritonclient.grpc as triton_grpc
from toy_model import write_repository
from tritonclient.utils import InferenceServerException
from waiting import wait_until

from service.triton import server, supervisor
from service.triton.errors import NotInstalled, StartFailed
from service.triton.server import LocalTriton

OWNER = """
import sys, time
from pathlib import Path
from service.triton.server import LocalTriton

with LocalTriton(home=Path(sys.argv[1]), model_repository=Path(sys.argv[2])) as triton:
    print(triton.pid, flush=True)
    while True:
        time.sleep(1)
"""
# Not signal.pause(): it would miss a Ctrl-C that arrives after Python's last check for signals.


def members(group: int) -> list[int]:
    """Return the process ids of a group (the server and its stubs), without those that only wait to be reaped.

    A process whose main thread is a zombie keeps its files, and so its locks, while other threads run.
    """
    found = []
    for folder in Path("/proc").iterdir():
        try:
            state, _parent, its_group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and (state != "Z" or len(list((folder / "task").iterdir())) > 1):
                found.append(int(folder.name))
        except (OSError, ValueError):
            continue
    return found


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def test_what_writes_files_or_maps_memory_is_locked(tmp_path: Path, triton: LocalTriton) -> None:
    calls: list[Callable[[triton_grpc.InferenceServerClient], object]] = [
        lambda client: client.register_system_shared_memory("x", "/x", 8),
        lambda client: client.get_system_shared_memory_status(),
        lambda client: client.load_model("tandem"),
        lambda client: client.get_model_repository_index(),
        lambda client: client.update_trace_settings(settings={"trace_file": [str(tmp_path / "trace")]}),
        lambda client: client.update_log_settings({"log_file": str(tmp_path / "log")}),
    ]
    with contextlib.closing(triton_grpc.InferenceServerClient(triton.grpc_url)) as client:
        for call in calls:
            with pytest.raises(InferenceServerException, match="restricted"):
                call(client)
    assert not {"trace", "log"} & {each.name for each in tmp_path.iterdir()}


def shared_memory_of(process: int) -> set[Path]:
    """Return the shared memory files of a server, found by the lock file that it has open."""
    for descriptor in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed in the meantime
            lock = descriptor.readlink()
            if lock.name.startswith(supervisor.PREFIX) and lock.suffix == ".lock":
                return set(lock.parent.glob(f"{lock.stem}*"))
    return set()


def is_gone(group: int, files: set[Path]) -> Callable[[], bool]:
    return lambda: not members(group) and not any(path.exists() for path in files)


@pytest.fixture
def toy_repository(tmp_path: Path) -> Path:
    return write_repository(tmp_path)


@pytest.fixture
def triton(triton_home: Path, toy_repository: Path) -> Iterator[LocalTriton]:
    with LocalTriton(home=triton_home, model_repository=toy_repository) as running:
        yield running


def test_stop_cleans_up_and_start_works_again(triton: LocalTriton) -> None:
    first = triton.pid
    files = shared_memory_of(first)
    assert len(members(first)) == 2, "a server and a stub"
    assert len(files) == 2, "a lock and a region"

    triton.stop()

    assert not triton.alive()
    assert is_gone(first, files)()
    triton.stop()

    triton.start()
    assert triton.alive()
    assert triton.pid != first
    client = triton_grpc.InferenceServerClient(triton.grpc_url)
    assert client.is_model_ready("tandem")
    client.close()


def test_a_killed_server_is_detected_and_cleaned_up(triton: LocalTriton) -> None:
    files = shared_memory_of(triton.pid)

    os.kill(triton.pid, signal.SIGKILL)

    assert triton.wait(60) == 128 + signal.SIGKILL
    assert not triton.alive()
    assert is_gone(triton.pid, files)()
    triton.stop()


def test_it_ends_with_its_owner_however_that_ends(triton_home: Path, toy_repository: Path) -> None:
    command = [sys.executable, "-c", OWNER, str(triton_home), str(toy_repository)]
    ends = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
    # In parallel: each takes seconds, mostly waiting.
    owners = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for _ in ends]
    try:
        groups = [int(owner.stdout.readline()) for owner in owners if owner.stdout]
        files = [shared_memory_of(group) for group in groups]
        assert [len(members(group)) for group in groups] == [2, 2, 2]
        assert [len(each) for each in files] == [2, 2, 2]

        for owner, end in zip(owners, ends, strict=True):
            owner.send_signal(end)
        for owner in owners:
            owner.wait(60)  # ``stop`` takes at most 17 s; the rest is slack for a busy machine
    finally:
        for owner in owners:
            owner.kill()
            owner.communicate()

    for group, its_files, end in zip(groups, files, ends, strict=True):
        wait_until(is_gone(group, its_files), f"nothing is left after {end.name}")


def test_the_next_supervisor_removes_only_what_a_killed_one_left(
    triton: LocalTriton, triton_home: Path, toy_repository: Path
) -> None:
    other = LocalTriton(home=triton_home, model_repository=toy_repository)
    other.start()
    files, others_files = shared_memory_of(triton.pid), shared_memory_of(other.pid)
    group = other.pid

    (lock,) = (path for path in others_files if path.suffix == ".lock")
    with lock.open("r+") as held:
        # Everything at once, as the kernel does when a memory limit is exceeded: nobody is left to clean up.
        os.kill(parent_of(group), signal.SIGKILL)
        os.killpg(group, signal.SIGKILL)
        # The lock is free when the last process has ended. While we hold it, no other supervisor removes it.
        fcntl.flock(held, fcntl.LOCK_EX)
        assert all(path.exists() for path in others_files)
    wait_until(lambda: not other.alive(), "its supervisor has ended too")

    other.start()

    assert not any(path.exists() for path in others_files)
    assert all(path.exists() for path in files)
    other.stop()


def test_a_server_ends_when_its_supervisor_is_killed(triton: LocalTriton) -> None:
    files = shared_memory_of(triton.pid)

    os.kill(parent_of(triton.pid), signal.SIGKILL)

    wait_until(lambda: not members(triton.pid) and not triton.alive(), "server, stub and supervisor have ended")
    triton.stop()
    assert is_gone(triton.pid, files)()


def test_stop_ends_a_stub_that_outlived_its_killed_supervisor(triton: LocalTriton) -> None:
    files = shared_memory_of(triton.pid)
    (stub,) = set(members(triton.pid)) - {triton.pid}
    os.kill(stub, signal.SIGSTOP)  # otherwise it usually notices after a while that its server has ended
    os.kill(parent_of(triton.pid), signal.SIGKILL)
    wait_until(
        lambda: triton.pid not in members(triton.pid) and not triton.alive(), "server and supervisor have ended"
    )

    triton.stop()

    assert is_gone(triton.pid, files)()


@pytest.mark.parametrize("which", [0, 1], ids=["gRPC", "metrics"])
def test_other_ports_are_tried_when_one_is_taken(
    triton_home: Path, toy_repository: Path, monkeypatch: pytest.MonkeyPatch, which: int
) -> None:
    find = server.free_ports
    with socket.create_server(("127.0.0.1", 0)) as taken:
        first = find(2)
        first[which] = taken.getsockname()[1]
        answers = iter([first])
        monkeypatch.setattr(server, "free_ports", lambda count: next(answers, None) or find(count))

        with LocalTriton(home=triton_home, model_repository=toy_repository) as triton:
            assert triton.alive()
            assert str(first[which]) not in triton.grpc_url + triton.metrics_url
            assert "nv_inference_count" in httpx.get(triton.metrics_url).text


def test_the_error_names_a_model_that_cannot_be_loaded_and_why(triton_home: Path, toy_repository: Path) -> None:
    (toy_repository / "tandem" / "1" / "model.onnx").write_bytes(b"not ONNX")
    triton = LocalTriton(home=triton_home, model_repository=toy_repository)

    with pytest.raises(StartFailed, match=r"(?s)failed to load.*protobuf parsing failed"):
        triton.start()

    assert not triton.alive()


def test_a_start_that_takes_too_long_is_cleaned_up(triton_home: Path, toy_repository: Path) -> None:
    triton = LocalTriton(home=triton_home, model_repository=toy_repository, start_timeout_s=0.1)

    with pytest.raises(StartFailed, match=r"did not answer within 0\.1 s"):
        triton.start()

    assert not members(triton.pid)


def test_starting_without_an_installation_or_a_repository_fails(
    triton_home: Path, toy_repository: Path, tmp_path: Path
) -> None:
    with pytest.raises(NotInstalled, match="tandem install-triton"):
        LocalTriton(home=tmp_path / "nowhere", model_repository=toy_repository).start()
    with pytest.raises(StartFailed, match="is not a folder"):
        LocalTriton(home=triton_home, model_repository=tmp_path / "nowhere").start()
