"""The sections of the report, of runs that lack what others have."""

from training.report.sections import Plot, _runs
from training.runs import write_run
from training.tables import Table

SETTINGS = {"stage": "joint", "epochs": 3, "batch_size": 8, "learning_rate": 0.01, "seed": 1}


def test_a_run_without_a_log_is_in_the_table_only(tmp_path):
    for name in ("identity", "joint"):
        write_run(tmp_path / name, SETTINGS, {"images": 40}, {"commit": "c0ffee"}, None)
    runs = {name: tmp_path / name for name in ("identity", "joint")}
    assert [type(part) for part in _runs(runs).parts] == [Table]
    log = tmp_path / "joint" / "curves" / "version_0" / "metrics.csv"
    log.parent.mkdir(parents=True)
    log.write_text("epoch,loss\n0,1.5\n1,1.2\n")
    assert [type(part) for part in _runs(runs).parts] == [Table, Plot]
