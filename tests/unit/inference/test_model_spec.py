import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

from service.errors import ContractUnreadable
from service.inference.model_spec import ModelSpec

TEMPLATE = "0.3,0.4;0.7,0.4;0.5,0.6;0.35,0.8;0.65,0.8"
CONFIG = f"""
name: "tandem" backend: "pytorch" max_batch_size: 64
input [ {{ name: "face" data_type: TYPE_UINT8 dims: [ 1, 48, 40 ] }} ]
output [ {{ name: "probabilities__0" data_type: TYPE_FP32 dims: [ 3 ] }} ]
parameters {{ key: "labels" value {{ string_value: "neutral, happiness,fear" }} }}
parameters {{ key: "alignment_template" value {{ string_value: "{TEMPLATE}" }} }}
parameters {{ key: "commit" value {{ string_value: "abc123" }} }}
parameters {{ key: "INTRA_OP_THREAD_COUNT" value {{ string_value: "2" }} }}
"""


def config(text: str = CONFIG) -> model_config_pb2.ModelConfig:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_reads_everything_that_the_gateway_needs() -> None:
    spec = ModelSpec.from_config(config(), "7")
    assert (spec.name, spec.version) == ("tandem", "7")
    assert spec.labels == ("neutral", "happiness", "fear")
    assert (spec.input_name, spec.output_name) == ("face", "probabilities__0")
    assert spec.crop_size == (48, 40)
    assert spec.crop_shape == (1, 48, 40)
    assert spec.max_batch_size == 64
    np.testing.assert_array_equal(
        spec.alignment_template, [[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]]
    )
    assert spec.box_template is None
    assert spec.provenance == {"commit": "abc123"}


def test_reads_where_the_box_of_a_second_crop_lies() -> None:
    framed = config()
    framed.parameters["box_template"].string_value = "0.1, 0,0.9,1"
    spec = ModelSpec.from_config(framed, "7")
    np.testing.assert_array_equal(spec.box_template, [0.1, 0, 0.9, 1])
    assert not spec.says_the_same_as(ModelSpec.from_config(config(), "7"))
    assert "box_template" not in spec.provenance


@pytest.mark.parametrize("text", ["", "0.1,0,0.9", "0.9,0,0.1,1", "0.1,0,0.9,1.1", "0.1,0,nan,1", "a,b,c,d"])
def test_refuses_a_box_that_is_none(text: str) -> None:
    framed = config()
    framed.parameters["box_template"].string_value = text
    with pytest.raises(ContractUnreadable, match="box_template"):
        ModelSpec.from_config(framed, "7")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("neutral, happiness,fear", "happiness,neutral,fear"),
        ("0.3,0.4;", "0.31,0.4;"),
        ("48, 40", "48, 48"),
        ("1, 48, 40", "3, 48, 40"),
        ("abc123", "abc124"),
        ("batch_size: 64", "batch_size: 32"),
    ],
)
def test_says_whether_a_configuration_has_changed(old: str, new: str) -> None:
    spec = ModelSpec.from_config(config(), "7")
    assert spec.says_the_same_as(ModelSpec.from_config(config(), "7"))
    assert not spec.says_the_same_as(ModelSpec.from_config(config(CONFIG.replace(old, new)), "7"))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('key: "labels"', 'key: "lables"', '"labels"'),
        ('key: "alignment_template"', 'key: "template"', '"alignment_template"'),
        ("neutral, happiness,fear", "neutral,happiness", '"labels" names 2'),
        ("neutral, happiness,fear", "neutral,,fear", "neutral,,fear"),
        ("neutral, happiness,fear", "fear,neutral,fear", "fear,neutral,fear"),
        (";0.65,0.8", "", "five points"),
        ("0.3,0.4;", "0.3;", "five points"),
        ("0.3,0.4;", "a,b;", "five points"),
        ("0.3,0.4;", "14.5,18.6;", "0 to 1"),
        ("0.3,0.4;", "nan,0.4;", "0 to 1"),
        ("0.3,0.4;", "0.7,0.4;", "differ"),
        ("TYPE_UINT8", "TYPE_FP32", '"face" is TYPE_FP32'),
        ("TYPE_FP32", "TYPE_FP16", '"probabilities__0" is TYPE_FP16'),
        ("1, 48, 40", "48, 40", "[48, 40]"),
        ("1, 48, 40", "1, -1, 40", "[1, -1, 40]"),
        ("1, 48, 40", "2, 48, 40", "2 channels"),
        ("max_batch_size: 64", "max_batch_size: 0", "max_batch_size is 0"),
        (
            "output [",
            "output [ { name: 'x' data_type: TYPE_FP32 dims: [ 3 ] },",
            "2 outputs",
        ),
    ],
)
def test_names_what_is_wrong(old: str, new: str, expected: str) -> None:
    text = CONFIG.replace(old, new)
    assert text != CONFIG
    with pytest.raises(ContractUnreadable) as caught:
        ModelSpec.from_config(config(text), "1")
    assert expected in caught.value.detail
    assert 'model "tandem" version 1' in caught.value.detail


@given(st.text(max_size=60))
def test_any_template_text_is_read_or_refused(text: str) -> None:
    broken = config()
    broken.parameters["alignment_template"].string_value = text
    with pytest.raises(ContractUnreadable):
        ModelSpec.from_config(broken, "1")
