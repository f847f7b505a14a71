import pytest
from pydantic import ValidationError

from service.settings import Settings, environment_name


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
def test_refuses_what_cannot_be(name: str, value: object) -> None:
    with pytest.raises(ValidationError):
        Settings(**{name: value})  # type: ignore[arg-type]
