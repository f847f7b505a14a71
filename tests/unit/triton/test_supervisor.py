import os
from pathlib import Path

from service.triton import supervisor


def test_files_of_a_running_process_stay(tmp_path: Path) -> None:
    prefix, lock = supervisor.claim_prefix(tmp_path)
    region = tmp_path / f"{prefix}-region"
    region.touch()

    supervisor.remove_stale_files(tmp_path)

    assert region.exists()
    os.close(lock)


def test_only_files_of_ended_processes_are_removed(tmp_path: Path) -> None:
    prefix, lock = supervisor.claim_prefix(tmp_path)
    (tmp_path / f"{prefix}-region").touch()
    foreign = [tmp_path / "triton_python_backend_shm_region_0", tmp_path / "tandem-triton-00000000-no-lock"]
    for path in foreign:
        path.touch()
    os.close(lock)  # as the kernel does when the last process that has it open ends

    supervisor.remove_stale_files(tmp_path)

    assert sorted(tmp_path.iterdir()) == sorted(foreign)


def test_each_prefix_is_unique_and_removed_on_its_own(tmp_path: Path) -> None:
    first, first_lock = supervisor.claim_prefix(tmp_path)
    second, second_lock = supervisor.claim_prefix(tmp_path)

    supervisor.remove_files(tmp_path, first)

    assert [path.name for path in tmp_path.iterdir()] == [f"{second}.lock"]
    for lock in (first_lock, second_lock):
        os.close(lock)
