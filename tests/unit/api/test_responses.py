import email
import email.policy
import json
from email.message import EmailMessage

import pytest
from answers import answer

from service.analyzer import Analysis
from service.api.responses import ResponseFormat, choose_media_type, render, to_json
from service.errors import NotAcceptable
from service.schemas import FACE_FIELDS

ALL = frozenset(FACE_FIELDS)
ANALYSIS = Analysis(answer(60, 50, (1, 2, 30, 40)), b"\xff\xd8 picture \r\n--", {"decode": 0.001})


@pytest.mark.parametrize(
    ("accept", "media_type", "picture_type"),
    [
        (None, "application/json", None),
        ("*/*", "application/json", None),
        ("image/webp", "image/webp", "image/webp"),
        ("image/*", "image/jpeg", "image/jpeg"),
        ("multipart/mixed", "multipart/mixed", "image/jpeg"),
        ("multipart/mixed, image/png;q=0.5", "multipart/mixed", "image/png"),
        ("multipart/mixed;q=0.1, application/json", "application/json", None),
        # Unasked: Java, a form in a browser, and others who name images among much else.
        ("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", "application/json", None),
        (
            "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
            "application/json",
            None,
        ),
        ("text/plain, image/png, */*;q=0.1", "application/json", None),
        ("image/png, */*", "application/json", None),
        ("*", "application/json", None),
        (" , ", "application/json", None),
        # Asked for: images before all else, or nothing else that there is.
        ("image/avif,image/webp,image/*;q=0.9,*/*;q=0.8", "image/webp", "image/webp"),
        ("image/png, application/json;q=0.9", "image/png", "image/png"),
        ("text/html, image/png", "image/png", "image/png"),
        ("multipart/mixed, image/webp;q=0.9, text/plain;q=0.5, */*;q=0.1", "multipart/mixed", "image/webp"),
    ],
)
def test_the_format_follows_accept(accept: str | None, media_type: str, picture_type: str | None) -> None:
    assert ResponseFormat.for_accept(accept) == ResponseFormat(media_type, picture_type)


def test_another_format_is_refused() -> None:
    with pytest.raises(NotAcceptable, match="multipart/mixed"):
        ResponseFormat.for_accept("text/html")


def test_fields_leaves_the_others_out_of_every_face() -> None:
    whole = json.loads(to_json(ANALYSIS.answer, ALL))
    assert set(whole["faces"][0]) == ALL
    some = json.loads(to_json(ANALYSIS.answer, frozenset({"emotion", "box"})))
    assert some["faces"] == [{"box": whole["faces"][0]["box"], "emotion": "happiness"}]
    assert (some["image"], some["model"]) == (whole["image"], whole["model"])


def test_a_mixed_answer_carries_both_byte_for_byte() -> None:
    response = render(ANALYSIS, ResponseFormat("multipart/mixed", "image/jpeg"), ALL)
    head = f"Content-Type: {response.headers['Content-Type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + bytes(response.body), policy=email.policy.HTTP)
    assert isinstance(message, EmailMessage)
    text, picture = message.iter_parts()
    assert text.get_content_type() == "application/json"
    assert json.loads(text.get_payload(decode=True)) == json.loads(to_json(ANALYSIS.answer, ALL))
    assert picture.get_content_type() == "image/jpeg"
    # The email package reads lines of text; only Content-Length says where the bytes end.
    assert picture["Content-Length"] == str(len(ANALYSIS.picture or b""))
    assert (ANALYSIS.picture or b"?") in bytes(response.body)


OFFERED = ("application/json", "image/jpeg", "image/png")


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, "application/json"),
        ("", "application/json"),
        ("*/*", "application/json"),
        ("image/png", "image/png"),
        ("IMAGE/PNG", "image/png"),
        ("image/*", "image/jpeg"),
        ("image/png, image/jpeg;q=0.5", "image/png"),
        ("image/jpeg;q=0.5, image/png;q=0.9, */*;q=0.1", "image/png"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "application/json"),
        ("application/json;q=0, */*", "image/jpeg"),
    ],
)
def test_chooses_the_media_type_that_the_caller_prefers(accept: str | None, chosen: str) -> None:
    assert choose_media_type(accept, OFFERED) == chosen


@pytest.mark.parametrize("accept", ["text/html", "image/gif", "*/*;q=0", "application/json;q=x"])
def test_refuses_a_caller_who_accepts_none_of_the_media_types(accept: str) -> None:
    with pytest.raises(NotAcceptable, match="application/json, image/jpeg, image/png"):
        choose_media_type(accept, OFFERED)
