"""What would only be refused on the machine that is lent is refused here."""

from pathlib import Path

import pytest

from training.settings.bundle import BundleSettings, PhaseSettings


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("cosine_margin", -0.1),
        ("unaligned_prob", 2),
        ("logit_adjustment", 1.5),
        ("distill_weight", -1),
        ("classification_weight", 0),
        ("teacher_weight", -1),
    ],
)
def test_an_option_out_of_its_range_is_named(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{option} is {value}"):
        BundleSettings(ferplus=Path("ferplus"), faces=Path("faces"), **{option: value})


@pytest.mark.parametrize(("option", "value"), [("batch_size", 1), ("learning_rate", 0.0), ("ema_decay", 1.0)])
def test_an_option_of_a_phase_out_of_its_range_is_named(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{option} is {value}"):
        PhaseSettings(seconds=1, **{option: value})
