from types import SimpleNamespace
from typing import Any

from service.api.app import create_app
from service.settings import Settings


def test_emotions_are_those_of_the_served_model() -> None:
    app = create_app(Settings())
    assert app.openapi()["components"]["schemas"]["Emotion"]["enum"][1] == "happiness"
    spec = SimpleNamespace(labels=("calm", "tense"))
    app.state.app_state = SimpleNamespace(triton=SimpleNamespace(known_spec=spec))
    for schemas in (app.openapi()["components"]["schemas"], app.openapi()["components"]["schemas"]):
        assert schemas["Emotion"]["enum"] == ["calm", "tense"]
        assert schemas["Probabilities"]["required"] == ["calm", "tense"]
    assert create_app(Settings()).openapi()["components"]["schemas"]["Emotion"]["enum"][1] == "happiness"


def test_fields_are_required_unless_the_query_selects_them() -> None:
    document = create_app(Settings()).openapi()
    schemas = document["components"]["schemas"]
    for name in ("FaceEmotion", "PhotoEmotions", "Probabilities", "Ready", "Limits", "PhotoForm", "BatchForm"):
        assert {*schemas[name]["required"], "crop"} == {*schemas[name]["properties"], "crop"}, name
    assert "required" not in schemas["SelectedFace"]

    def faces(path: str) -> Any:
        answer = document["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
        schema = schemas[answer["$ref"].rpartition("/")[2]]
        return schema["properties"]["faces"]["items"]["$ref"].rpartition("/")[2]

    assert faces("/v1/emotions") == "SelectedFace"
    assert faces("/v1/emotions/raw") == "FaceEmotion"


def test_operations_have_readable_names_and_servers_and_no_parameter_is_null() -> None:
    document = create_app(Settings()).openapi()
    operations = [each for path in document["paths"].values() for each in path.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)
    assert all(name.isalpha() and name[0].islower() for name in names)
    assert document["servers"][0]["url"] == "/"
    parameters = [each for operation in operations for each in operation.get("parameters", ())]
    assert parameters
    assert all("type" in each["schema"] for each in parameters)
