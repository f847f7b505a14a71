from pathlib import Path

import pytest

from service.cli.video.results import all_or_nothing


def test_files_appear_complete_or_not_at_all(tmp_path: Path) -> None:
    paths = [tmp_path / "new" / "a.csv", tmp_path / "b.mp4"]
    paths[1].write_text("before")

    def interrupted() -> None:
        with all_or_nothing(paths) as partial:
            for path in paths:
                partial[path].write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not paths[0].exists()
    assert paths[1].read_text() == "before"
    with all_or_nothing(paths) as partial:
        for path in paths:
            partial[path].write_text("all")
    assert [path.read_text() for path in paths] == ["all", "all"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.mp4", "new"]
