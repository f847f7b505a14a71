import json

import pytest
from lightning.pytorch.loggers import CSVLogger
from stripes import write_sets

from training.cli import app
from training.runs import SETTINGS, start_run
from training.settings import stages
from training.settings.stages import EmotionSettings
from training.stages.loggers import build_loggers


def settings(tmp_path, **options):
    return EmotionSettings(out=tmp_path / "run", data=tmp_path, **options)


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_logger_that_is_not_installed_is_named_before_anything_is_trained(monkeypatch, tmp_path, capsys, name):
    monkeypatch.setattr(stages, "find_spec", lambda package: None if package == name else package)
    data = write_sets(tmp_path, 16) / "ferplus"
    command = [
        "emotion",
        "--data",
        str(data),
        "--out",
        str(tmp_path / "run"),
        "--loggers",
        f"[tensorboard,{name}]",
    ]
    assert app(command) == 1
    error = capsys.readouterr().err
    assert f"loggers has {name}, which is not installed: " in error
    assert error.endswith(f"-m pip install {name}\n")
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_curves_are_always_in_a_csv_file_because_reports_read_it(tmp_path):
    (only,) = build_loggers(settings(tmp_path, loggers=()))
    assert isinstance(only, CSVLogger)


def test_a_run_goes_on_with_settings_newer_than_it_and_with_other_loggers(tmp_path):
    start_run(settings(tmp_path))
    file = tmp_path / "run" / SETTINGS
    known = json.loads(file.read_text())
    for name in ("num_nodes", "sync_batchnorm", "loggers"):
        del known[name]
    file.write_text(json.dumps(known))
    start_run(settings(tmp_path, loggers=("csv",)))
    assert json.loads(file.read_text())["loggers"] == ["csv"]
    with pytest.raises(ValueError, match=r"other settings \(num_nodes 1, not 2\)"):
        start_run(settings(tmp_path, num_nodes=2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_nodes": 0}, "num_nodes is 0; it must be at least 1"),
        ({"devices": 0}, "devices is 0; it must be at least 1"),
        ({"sync_batchnorm": True, "accelerator": "cpu"}, "sync_batchnorm is set; it needs GPUs"),
    ],
)
def test_settings_of_several_devices_are_checked(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        settings(tmp_path, **options)
