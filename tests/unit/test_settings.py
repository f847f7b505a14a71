import os
from pathlib import Path

import pytest
from pydantic import ValidationError

import service.settings
from service.api_keys import create_key
from service.cli.settings_errors import format_errors, unknown_variables
from service.settings import (
    ConfigUnusable,
    Settings,
    allowed,
    available_cores,
    environment_name,
    origin_of,
)

ROOT = Path(__file__).parents[2]


def test_every_setting_is_described_and_has_a_default() -> None:
    settings = Settings()
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert hasattr(settings, name)


def test_reads_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_MAX_PIXELS", "1000")
    assert Settings().max_pixels == 1000
    assert environment_name("max_pixels") == "TANDEM_MAX_PIXELS"


@pytest.mark.parametrize(
    ("name", "value"),
    [("port", 70_000), ("workers", 0), ("request_timeout_s", 0), ("model_version", "new"), ("drain_s", -1)],
)
def test_values_out_of_range_are_rejected(name: str, value: object) -> None:
    with pytest.raises(ValidationError):
        Settings(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [{"request_timeout_s": 20}, {"upload_timeout_s": 31}])
def test_request_timeout_must_exceed_upload_timeout(given: dict[str, float]) -> None:
    with pytest.raises(ValidationError) as raised:
        Settings(**given)  # type: ignore[arg-type]
    (line,) = format_errors(raised.value)
    assert line.startswith(f"TANDEM_REQUEST_TIMEOUT_S is {given.get('request_timeout_s', 30.0)}: ")
    assert f"{given.get('upload_timeout_s', 20):g} s (TANDEM_UPLOAD_TIMEOUT_S)" in line


def test_outside_a_checkout_data_is_in_the_users_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (Settings().model_repository / "tandem").is_dir()
    assert Settings().triton_home == ROOT / ".triton"
    monkeypatch.setattr("service.settings.CHECKOUT", None)
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert service.settings.default_triton_home() == Path("/data/tandem")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/ann")
    assert service.settings.default_triton_home() == Path("/home/ann/.local/share/tandem")
    assert service.settings.default_model_repository() == ROOT / "service" / "model_repository"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The settings file of an empty folder, which becomes the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "tandem.toml"


def test_arguments_override_environment_overrides_file_overrides_defaults(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text('port = 1\nmax_faces = 2\nworkers = 3\ncors_origins = ["https://example.org"]\n')
    monkeypatch.setenv("TANDEM_PORT", "11")
    monkeypatch.setenv("TANDEM_MAX_FACES", "12")
    settings = Settings(port=21)
    assert (settings.port, settings.max_faces, settings.workers) == (21, 12, 3)
    assert settings.cors_origins == ("https://example.org",)
    origins = [origin_of(name, getattr(settings, name)) for name in ("max_faces", "workers", "host")]
    assert origins == ["environment", "tandem.toml", "default"]
    assert origin_of("host", "0.0.0.0") == "option"  # noqa: S104 - only compared


def test_the_file_can_be_chosen(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text("port = 1\n")
    other = config.with_name("other.toml")
    other.write_text("port = 2\n")
    monkeypatch.setenv("TANDEM_CONFIG", str(other))
    assert Settings().port == 2
    other.unlink()
    with pytest.raises(ConfigUnusable):
        Settings()


def test_invalid_toml_and_unknown_settings_are_rejected(config: Path) -> None:
    config.write_text("port 1")
    with pytest.raises(ConfigUnusable, match=r"tandem\.toml"):
        Settings()
    config.write_text("prot = 1")
    with pytest.raises(ValidationError) as raised:
        Settings()
    (line,) = format_errors(raised.value)
    assert '"prot" in tandem.toml' in line


def test_an_error_names_the_setting_its_value_and_what_is_allowed(config: Path) -> None:
    config.write_text('port = 70000\nlog_level = "loud"\n')
    with pytest.raises(ValidationError) as raised:
        Settings(drain_s=-1)
    port, level, drain = format_errors(raised.value)
    assert port.startswith("TANDEM_PORT is 70000: ")
    assert port.endswith("(allowed: 0 to 65535), in tandem.toml")
    assert "(allowed: debug, info, warning, error)" in level
    assert drain == "TANDEM_DRAIN_S is -1: is out of range (allowed: 0 or more)"


def test_keys_are_validated_and_never_shown(config: Path) -> None:
    secret = create_key("a").secret
    keys = config.with_name("keys")
    keys.write_text(secret)
    with pytest.raises(ValidationError) as raised:
        Settings(api_keys=(secret,), api_keys_file=keys)
    lines = list(format_errors(raised.value))
    assert len(lines) == 2
    assert secret not in "".join(lines)
    assert lines[0].startswith("TANDEM_API_KEYS is set: ")
    with pytest.raises(ValidationError, match="api_keys_file"):
        Settings(api_keys_file=config.with_name("none"))


def test_allowed_describes_ranges_in_words() -> None:
    fields = Settings.model_fields
    assert allowed(fields["port"]) == "0 to 65535"
    assert allowed(fields["workers"]) == "1 to 256"
    assert allowed(fields["request_timeout_s"]) == "above 0"
    assert allowed(fields["max_faces"]) == "1 or more"
    assert allowed(fields["host"]) == ""


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("9900000 100000", 8),
        (None, 8),
    ],
)
def test_available_cores_respects_affinity_and_the_containers_quota(
    quota: str | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(service.settings, "CPU_QUOTA", tmp_path / "cpu.max")
    if quota:
        (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert available_cores() == expected


def errors_of(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> list[str]:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError) as raised:
        Settings()
    return list(format_errors(raised.value))


@pytest.mark.parametrize(
    "name", ["HOST", "TRITON_URL", "API_KEYS", "API_KEYS_FILE", "MODEL_REPOSITORY", "RATE_LIMIT"]
)
@pytest.mark.parametrize("value", ["", " "])
def test_an_empty_value_is_an_error(name: str, value: str, monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
    (line,) = errors_of(monkeypatch, f"TANDEM_{name}", value)
    assert line.startswith(f"TANDEM_{name} is ")


@pytest.mark.parametrize("name", ["UPLOAD_TIMEOUT_S", "DRAIN_S", "MAX_FRAMES_PER_S", "SHADOW_SHARE"])
@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e999", "many"])
def test_numbers_are_finite(name: str, value: str, monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
    assert errors_of(monkeypatch, f"TANDEM_{name}", value)[0].startswith(f"TANDEM_{name} is ")


@pytest.mark.parametrize("name", ["API_KEYS", "CORS_ORIGINS", "TRUSTED_PROXIES"])
@pytest.mark.parametrize("value", ["a", "[", "{}", "[1]", "null", '"a"'])
def test_lists_are_json_lists_of_texts(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, config: Path
) -> None:
    lines = errors_of(monkeypatch, f"TANDEM_{name}", value)
    assert all(line.startswith(f"TANDEM_{name} is ") for line in lines)


@pytest.mark.parametrize("content", ["", "\n", "# only a comment\n", "\xff"])
def test_a_file_without_keys_does_not_open_the_service(
    content: str, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = config.with_name("keys")
    keys.write_bytes(content.encode("latin-1"))
    (line,) = errors_of(monkeypatch, "TANDEM_API_KEYS_FILE", str(keys))
    assert "key" in line or "cannot be read" in line
    assert Settings(api_keys_file=Path("/dev/null")).api_keys_file  # as Compose mounts it for no keys


def test_a_list_of_comments_has_no_key(monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
    assert errors_of(monkeypatch, "TANDEM_API_KEYS", '["# a comment"]')


def test_every_error_is_in_our_own_words(monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
    for name, field in Settings.model_fields.items():
        for value in ("", "[]", "-1", "x", "1e400", "99999999999999999999999999", "null", "\u00e9" * 5000):
            monkeypatch.setenv(environment_name(name), value)
            try:
                Settings()
            except ValidationError as error:
                lines = list(format_errors(error))
                assert any(environment_name(name) in line for line in lines), name
                assert not any("Input should" in line or "validation" in line for line in lines), lines
            monkeypatch.delenv(environment_name(name))
        assert field


def test_misspelled_variables_are_told_from_foreign_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("TANDEM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TANDEM_API_KEY_FILE", "keys")
    monkeypatch.setenv("TANDEM_PORT_8080_TCP_ADDR", "10.0.0.1")
    monkeypatch.setenv("TANDEM_API_KEY", "known to the client")
    misspelled, others = unknown_variables()
    assert ["TANDEM_API_KEYS_FILE" in line for line in misspelled] == [True]
    assert ["TANDEM_PORT_8080_TCP_ADDR" in line for line in others] == [True]
