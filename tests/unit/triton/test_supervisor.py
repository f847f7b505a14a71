import os
from pathlib import Path

from service.triton import supervisor


def test_a_sweep_spares_what_a_living_process_holds(tmp_path: Path) -> None:
    prefix, lock = supervisor.claim(tmp_path)
    region = tmp_path / f"{prefix}-region"
    region.touch()

    supervisor.sweep(tmp_path)

    assert region.exists()
    os.close(lock)


def test_a_sweep_removes_what_a_dead_process_left_and_nothing_else(tmp_path: Path) -> None:
    prefix, lock = supervisor.claim(tmp_path)
    (tmp_path / f"{prefix}-region").touch()
    foreign = [tmp_path / "triton_python_backend_shm_region_0", tmp_path / "tandem-triton-00000000-no-lock"]
    for path in foreign:
        path.touch()
    os.close(lock)  # as the kernel does at the end of the last process that has it

    supervisor.sweep(tmp_path)

    assert sorted(tmp_path.iterdir()) == sorted(foreign)


def test_claims_differ_and_are_released_one_by_one(tmp_path: Path) -> None:
    first, first_lock = supervisor.claim(tmp_path)
    second, second_lock = supervisor.claim(tmp_path)

    supervisor.release(tmp_path, first)

    assert [path.name for path in tmp_path.iterdir()] == [f"{second}.lock"]
    for lock in (first_lock, second_lock):
        os.close(lock)
