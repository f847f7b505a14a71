from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

CONFIG = Path(__file__).parents[3] / "model_repository" / "tandem" / "config.pbtxt"


@pytest.fixture(scope="module")
def config() -> model_config_pb2.ModelConfig:
    """The committed configuration; parsing it fails if Triton does not know a field."""
    return text_format.Parse(CONFIG.read_text(), model_config_pb2.ModelConfig())


def test_it_works_with_both_backends_on_cpu_and_gpu(config: model_config_pb2.ModelConfig) -> None:
    assert (config.name, config.backend) == (CONFIG.parent.name, "pytorch")
    assert not config.runtime, "a runtime would exclude the C++ backend"
    assert not config.instance_group, "instance groups would require a CPU or a GPU"
    assert "INTER_OP_THREAD_COUNT" not in config.parameters, "it aborts the C++ server if there is a second model"


def test_input_is_uint8_faces_and_output_probabilities(config: model_config_pb2.ModelConfig) -> None:
    (face,), (probabilities,) = config.input, config.output

    assert (face.name, face.data_type) == ("face", model_config_pb2.TYPE_UINT8)
    channels, height, width = face.dims
    assert channels == 1
    assert height == width
    assert (probabilities.name, probabilities.data_type) == ("probabilities__0", model_config_pb2.TYPE_FP32)
    labels = config.parameters["labels"].string_value.split(",")
    assert list(probabilities.dims) == [len(set(labels))] == [len(labels)]


def test_the_template_is_five_points_inside_the_crop(config: model_config_pb2.ModelConfig) -> None:
    text = config.parameters["alignment_template"].string_value
    points = [tuple(float(number) for number in point.split(",")) for point in text.split(";")]

    left_eye, right_eye, nose, left_mouth, right_mouth = points
    assert all(0 < number < 1 for point in points for number in point)
    assert left_eye[0] < nose[0] < right_eye[0]
    assert left_mouth[0] < nose[0] < right_mouth[0]
    assert left_eye[1] == right_eye[1] < nose[1] < left_mouth[1] == right_mouth[1]


def test_requests_are_batched_without_delay(config: model_config_pb2.ModelConfig) -> None:
    assert config.max_batch_size >= 100, "the faces of one photo must fit into one request"
    assert config.HasField("dynamic_batching")
    assert config.dynamic_batching.max_queue_delay_microseconds == 0
    assert not config.dynamic_batching.preferred_batch_size
    # With a limit, Triton 24.10 lets a single client wait for 0.5 s now and then.
    assert not config.dynamic_batching.HasField("default_queue_policy")


def test_a_new_version_is_warmed_up_before_it_gets_requests(config: model_config_pb2.ModelConfig) -> None:
    for sample in config.model_warmup:
        (face,) = config.input
        assert (set(sample.inputs), list(sample.inputs["face"].dims)) == ({face.name}, list(face.dims))
        assert sample.count >= 3, "TorchScript profiles the first run and optimizes in the second"
    assert sorted(sample.batch_size for sample in config.model_warmup)[0] == 1
    assert len(config.model_warmup) > 1
