import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api_keys import KeyRing, create_key


def test_a_key_is_recognized_and_only_its_hash_is_stored() -> None:
    first, second = create_key("ci"), create_key("ci")
    assert first.secret != second.secret
    assert first.secret.startswith("tandem_")
    assert first.secret not in first.line
    ring = KeyRing.from_lines(["# the keys", "", f"{first.line}  # of the build", create_key("app.2").line])
    assert ring.name_of(first.secret) == "ci"
    assert ring.name_of(second.secret) is None
    assert first.line[-64:] not in repr(ring)


@given(st.text())
def test_nothing_else_is_recognized(text: str) -> None:
    ring = KeyRing.from_lines([create_key("a").line])
    assert ring.name_of(text) is None
    assert KeyRing(()).name_of(text) is None


@pytest.mark.parametrize("line", ["tandem_secret", "a:sha256:12", "a b:sha256:" + "0" * 64, "a:md5:" + "0" * 64])
def test_an_invalid_line_is_refused_and_not_repeated(line: str) -> None:
    with pytest.raises(ValueError, match="line 2 ") as raised:
        KeyRing.from_lines(["", line])
    assert line not in str(raised.value)


@pytest.mark.parametrize("name", ["", "a:b", "a b", "é", "x" * 65])
def test_names_are_limited_to_what_logs_and_lines_can_hold(name: str) -> None:
    with pytest.raises(ValueError, match="name is"):
        create_key(name)
