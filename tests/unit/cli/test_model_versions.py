"""`tandem model`: what it writes to a model's configuration, and what it refuses.

tests/integration/triton/test_rollout.py runs it with a real Triton.
"""

from pathlib import Path

import pytest
from google.protobuf import text_format
from pydantic import ValidationError
from tritonclient.grpc import model_config_pb2
from typer.testing import CliRunner

from service.cli.main import app
from service.cli.model_versions import NEWEST, PolicyState, VersionChangeRefused, VersionedModel
from service.settings import Settings

CONFIG = """# The model.
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
    """The policy that Triton reads."""
    config = text_format.Parse((model.folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    return str(config.version_policy).replace("\n", " ").strip()


def test_by_default_the_newest_version_with_weights_is_active(model: VersionedModel) -> None:
    assert model.versions == [1, 2, 10]
    assert model.policy_state == PolicyState(NEWEST, None)
    assert model.active == 10


def test_activate_pins_a_version_and_rollback_undoes_it(model: VersionedModel) -> None:
    model.activate(1)
    assert policy(model) == "specific {   versions: 1 }"
    assert (model.active, model.policy_state) == (1, PolicyState((1,), NEWEST))
    model.activate(2)
    model.roll_back()
    assert (model.active, model.policy_state) == (1, PolicyState((1,), (2,)))
    model.roll_back()
    assert model.active == 2
    model.activate(None)
    assert policy(model) == "latest {   num_versions: 1 }"
    assert (model.active, model.policy_state) == (10, PolicyState(NEWEST, (2,)))
    assert (model.folder / "config.pbtxt").read_text().startswith(CONFIG)
    assert (model.folder / "config.pbtxt").read_text().count("version_policy") == 1
    assert sorted(path.name for path in model.folder.parent.iterdir()) == ["tandem"]


def test_a_change_that_is_repeated_leaves_the_way_back(model: VersionedModel) -> None:
    model.activate(None)
    assert (model.folder / "config.pbtxt").read_text() == CONFIG
    model.activate(1)
    for _ in range(2):
        model.activate(2)
    model.roll_back()
    assert model.active == 1
    for _ in range(2):
        model.shadow(10)
    model.roll_back()
    assert model.policy_state.current == (1,)


def test_the_first_rollback_loads_the_version_before_the_newest(model: VersionedModel) -> None:
    model.roll_back()
    assert policy(model) == "specific {   versions: 2 }"


def test_a_shadow_is_loaded_beside_the_active_version(model: VersionedModel) -> None:
    model.activate(1)
    model.shadow(10)
    assert policy(model) == "specific {   versions: 1   versions: 10 }"
    assert model.active == 1
    model.roll_back()
    assert policy(model) == "specific {   versions: 1 }"
    with pytest.raises(VersionChangeRefused, match="version 1"):
        model.shadow(1)


def test_each_version_keeps_its_configuration(model: VersionedModel) -> None:
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
    ("config", "culprit"),
    [
        (CONFIG + "version_policy { all { } }\n", "version_policy"),
        (CONFIG + "nonsense: 1\n", "nonsense"),
    ],
)
def test_a_configuration_with_its_own_policy_or_an_error_is_not_changed(
    model: VersionedModel, config: str, culprit: str
) -> None:
    path = model.folder / "config.pbtxt"
    path.write_text(config)
    for step in (lambda: model.activate(1), model.roll_back, lambda: model.shadow(1), lambda: model.policy_state):
        with pytest.raises(VersionChangeRefused, match=culprit):
            step()
    path.write_text(CONFIG)
    (model.folder / "2" / "config.pbtxt").write_text(config)
    with pytest.raises(VersionChangeRefused, match=culprit):
        model.activate(2)
    assert path.read_text() == CONFIG


def test_commands(model: VersionedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_MODEL_REPOSITORY", str(model.folder.parent))

    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["model", *arguments])
        return result.exit_code, result.output

    assert run("list") == (0, "1\n2\n10  active\na newer version becomes active as soon as it is added\n")
    assert run("activate", "1") == (0, "active: version 1; Triton follows within seconds\n")
    assert run("shadow", "2") == (0, "active: version 1, shadow 2; Triton follows within seconds\n")
    assert run("list") == (0, "1  active\n2  shadow\n10\n`tandem model rollback` returns to: 1\n")
    assert run("rollback") == (0, "active: version 1; Triton follows within seconds\n")
    assert run("activate", "newest") == (0, "active: version 10; Triton follows within seconds\n")
    code, output = run("activate", "11")
    assert code == 1
    assert "version 11 " in output
    assert "1, 2, 10" in output
    assert run("activate", "old")[0] == 2
    monkeypatch.setenv("TANDEM_MODEL_NAME", "other")
    code, output = run("list")
    assert code == 1
    assert "other/config.pbtxt" in output.replace("\n", "")


@pytest.mark.parametrize("pinned", ["", "2"])
def test_a_shadow_needs_another_pinned_version(pinned: str) -> None:
    with pytest.raises(ValidationError, match="shadow"):
        Settings(model_version=pinned, shadow_version="2")
    assert Settings(model_version="1", shadow_version="2").shadow_share == 1
