import pytest
from pydantic import ValidationError

from service.api.params import PhotoQuery
from service.errors import BadParameter
from service.schemas import FACE_FIELDS
from service.settings import Settings
from service.workers.tasks import DetectionOptions


def test_defaults_come_from_the_settings() -> None:
    settings = Settings(max_faces=7, detection_threshold=0.4)
    assert PhotoQuery().options(settings) == DetectionOptions(max_faces=7, min_face_size=0, threshold=0.4)
    given = PhotoQuery(max_faces=3, min_face_size=20, threshold=0.9)
    assert given.options(settings) == DetectionOptions(max_faces=3, min_face_size=20, threshold=0.9)


def test_faces_are_cut_out_only_on_request() -> None:
    settings = Settings()
    assert [PhotoQuery(fields=fields).options(settings).cutouts for fields in (None, "box", "box,crop")] == [
        False,
        False,
        True,
    ]


def test_more_faces_than_the_limit_are_refused() -> None:
    with pytest.raises(BadParameter, match=r"8; the limit is 7 \(TANDEM_MAX_FACES\)"):
        PhotoQuery(max_faces=8).options(Settings(max_faces=7))


def test_fields_are_names_of_a_faces_fields() -> None:
    assert PhotoQuery().face_fields() == frozenset(FACE_FIELDS) - {"crop"}
    assert PhotoQuery(fields="box,emotion").face_fields() == {"box", "emotion"}
    for wrong in ("", "box,", "box;emotion", "landmark", "Box"):
        with pytest.raises(ValidationError, match="fields"):
            PhotoQuery(fields=wrong)
