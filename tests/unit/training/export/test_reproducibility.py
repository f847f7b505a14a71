from training.export.reproducibility import render_reproducibility


def stage(**provenance):
    return {"settings": {"seed": 5}, "provenance": {"commit": "c0ffee", "torch": "2.13.0", **provenance}}


def test_only_what_was_recorded_is_said():
    text = render_reproducibility({"old": stage(), "new": stage(device="NVIDIA H100", precision="bf16-mixed")})
    unknown = " | ".join(["not recorded"] * 5)
    assert f"| old | 5 | c0ffee | 2.13.0 | {unknown} |" in text
    assert "no fixed order" in text
    assert "Of a run whose device is not recorded" in text
    assert "bit by bit" not in text
    assert "for a given time" not in text


def test_a_bundle_depends_on_the_speed_of_the_machine():
    bundled = stage()
    bundled["settings"]["command"] = "training bundle"
    assert "for a given time" in render_reproducibility({"bundled": bundled})
