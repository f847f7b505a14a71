from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from training.occlusion.fit import Samples, fit, fit_occlusion, score, table
from training.settings.occlusion import OcclusionSettings


def samples(count: int) -> Samples:
    """The third of six features tells; the scales differ, as those of a network's features do."""
    rng = np.random.default_rng(1)
    hidden = rng.random(count) < 0.5
    features = rng.normal(0, 1, (count, 6)).astype(np.float32) * (1, 5, 0.1, 1, 20, 1) + (0, 3, -2, 0, 0, 0)
    features[:, 2] += 0.4 * hidden
    kinds = np.where(hidden, "mask", "nothing")
    return Samples(features.astype(np.float32), hidden, kinds, np.arange(count))


def test_fits_what_tells_and_nothing_else() -> None:
    fitted, tested = samples(3000), samples(500)
    numbers = fit(fitted)
    assert numbers.shape == (7,)
    assert ((score(tested.features, numbers) > 0) == tested.hidden).mean() > 0.95
    assert np.abs(numbers[[0, 1, 3, 4, 5]]).max() < 0.05 * numbers[2]


def test_the_table_counts_what_is_called_hidden() -> None:
    tested = samples(400)
    rows = {row[0]: row for row in table(tested, np.where(tested.hidden, 1, -1).astype(np.float32)).rows}
    assert rows["mask"][2] == "100.00"
    assert rows["nothing"][2] == "0.00"
    assert rows["mask"][1] == str(tested.hidden.sum())


def test_fits_photos_of_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for person in range(8):
        folder = tmp_path / "photos" / f"person{person}"
        folder.mkdir(parents=True)
        Image.fromarray(data.astronaut()[:300, 100:400]).save(folder / "1.jpg", quality=60 + 5 * person)
    (tmp_path / "photos/person0/notes.txt").write_text("not a photo")
    out = tmp_path / "new/hidden.npy"
    fit_occlusion(OcclusionSettings(photos=tmp_path / "photos", out=out, samples=200))
    assert np.load(out).shape == (1153,)
    assert "sunglasses" in capsys.readouterr().out


def test_a_folder_without_faces_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no face was found in it"):
        fit_occlusion(OcclusionSettings(photos=tmp_path, out=tmp_path / "hidden.npy"))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"photos": Path("nowhere")}, "photos is nowhere"), ({"samples": 10}, "samples is 10; it must be at least")],
)
def test_wrong_settings_are_named(tmp_path: Path, options: dict[str, object], message: str) -> None:
    given = {"photos": tmp_path, "out": tmp_path / "hidden.npy"} | options
    with pytest.raises(ValueError, match=message):
        OcclusionSettings(**given)  # type: ignore[arg-type]
