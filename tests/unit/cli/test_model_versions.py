"""`tandem model`: what it writes into a model's configuration, and what it refuses. The real Triton is in
tests/integration/triton/test_rollout.py.
"""

from pathlib import Path

import pytest
from google.protobuf import text_format
from pydantic import ValidationError
from tritonclient.grpc import model_config_pb2
from typer.testing import CliRunner

from service.cli.main import app
from service.cli.model_versions import NEWEST, Loaded, RolloutRefused, VersionedModel
from service.settings import Settings

CONFIG = """# The contract.
name: "tandem"
max_batch_size: 8
parameters { key: "labels" value { string_value: "of version 1" } }
"""


@pytest.fixture
def model(tmp_path: Path) -> VersionedModel:
    for version in (1, 2, 10):
        folder = tmp_path / "tandem" / str(version)
        folder.mkdir(parents=True)
        (folder / "model.pt").write_bytes(b"weights")
    (tmp_path / "tandem" / "11").mkdir()
    (tmp_path / "tandem" / "config.pbtxt").write_text(CONFIG)
    return VersionedModel(tmp_path, "tandem")


def policy(model: VersionedModel) -> str:
    """What Triton reads."""
    config = text_format.Parse((model.folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    return str(config.version_policy).replace("\n", " ").strip()


def test_untouched_the_newest_with_weights_is_active(model: VersionedModel) -> None:
    assert model.versions == [1, 2, 10]
    assert model.loaded == Loaded(NEWEST, None)
    assert model.active == 10


def test_activate_pins_and_rollback_goes_back_and_forth(model: VersionedModel) -> None:
    model.activate(1)
    assert policy(model) == "specific {   versions: 1 }"
    assert (model.active, model.loaded) == (1, Loaded((1,), NEWEST))
    model.activate(2)
    model.roll_back()
    assert (model.active, model.loaded) == (1, Loaded((1,), (2,)))
    model.roll_back()
    assert model.active == 2
    model.activate(None)
    assert policy(model) == "latest {   num_versions: 1 }"
    assert (model.active, model.loaded) == (10, Loaded(NEWEST, (2,)))
    assert (model.folder / "config.pbtxt").read_text().startswith(CONFIG)
    assert (model.folder / "config.pbtxt").read_text().count("version_policy") == 1
    assert sorted(path.name for path in model.folder.parent.iterdir()) == ["tandem"]


def test_without_a_way_back_it_is_the_version_before_the_newest(model: VersionedModel) -> None:
    model.roll_back()
    assert policy(model) == "specific {   versions: 2 }"


def test_a_shadow_is_loaded_beside_the_active_one(model: VersionedModel) -> None:
    model.activate(1)
    model.shadow(10)
    assert policy(model) == "specific {   versions: 1   versions: 10 }"
    assert model.active == 1
    model.roll_back()
    assert policy(model) == "specific {   versions: 1 }"
    with pytest.raises(RolloutRefused, match="version 1 is the active one"):
        model.shadow(1)


def test_each_version_keeps_its_contract(model: VersionedModel) -> None:
    other = CONFIG.replace("of version 1", "of version 2")
    (model.folder / "2" / "config.pbtxt").write_text(other)
    model.activate(1)
    model.activate(2)
    text = (model.folder / "config.pbtxt").read_text()
    assert text.startswith(other)
    assert policy(model) == "specific {   versions: 2 }"
    model.roll_back()
    assert (model.folder / "config.pbtxt").read_text().startswith(CONFIG)
    assert (model.folder / "1" / "config.pbtxt").read_text() == CONFIG


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (CONFIG + "version_policy { all { } }\n", "has a version_policy of its own"),
        (CONFIG + "nonsense: 1\n", "cannot be read"),
    ],
)
def test_a_configuration_that_is_not_ours_stays_as_it_is(model: VersionedModel, config: str, why: str) -> None:
    path = model.folder / "config.pbtxt"
    path.write_text(config)
    for step in (lambda: model.activate(1), model.roll_back, lambda: model.shadow(1), lambda: model.loaded):
        with pytest.raises(RolloutRefused, match=why):
            step()
    path.write_text(CONFIG)
    (model.folder / "2" / "config.pbtxt").write_text(config)
    with pytest.raises(RolloutRefused, match=why):
        model.activate(2)
    assert path.read_text() == CONFIG


def test_commands(model: VersionedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_MODEL_REPOSITORY", str(model.folder.parent))

    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["model", *arguments])
        return result.exit_code, result.output

    assert run("list") == (0, "1\n2\n10  active\na newer one becomes active as soon as it is there\n")
    assert run("activate", "1") == (0, "active: version 1; Triton follows within seconds\n")
    assert run("shadow", "2") == (0, "active: version 1, shadow 2; Triton follows within seconds\n")
    assert run("list") == (0, "1  active\n2  shadow\n10\n`tandem model rollback` goes to: 1\n")
    assert run("rollback") == (0, "active: version 1; Triton follows within seconds\n")
    assert run("activate", "newest") == (0, "active: version 10; Triton follows within seconds\n")
    code, output = run("activate", "11")
    assert code == 1
    assert "has no version 11 with a model.pt; there are 1, 2, 10" in output
    assert run("activate", "old")[0] == 2
    monkeypatch.setenv("TANDEM_MODEL_NAME", "other")
    code, output = run("list")
    assert code == 1
    assert "config.pbtxt is not there" in output


@pytest.mark.parametrize("pinned", ["", "2"])
def test_a_shadow_needs_another_version_to_be_pinned(pinned: str) -> None:
    with pytest.raises(ValidationError, match="needs another version to be pinned"):
        Settings(model_version=pinned, shadow_version="2")
    assert Settings(model_version="1", shadow_version="2").shadow_share == 1
