from service.api.app import create_app
from service.api.docs_page import render
from service.schemas import Problem
from service.settings import Settings


def test_the_page_lists_every_route_field_and_parameter_and_loads_nothing() -> None:
    document = create_app(Settings()).openapi()
    page = "".join(render(document))
    for path in document["paths"]:
        assert path in page
    for schema in document["components"]["schemas"].values():
        for field in schema.get("properties", {}):
            assert f"<code>{field}</code>" in page
    for parameter in ("max_faces", "min_face_size", "threshold"):
        assert parameter in page
    assert "src=" not in page
    assert "//cdn" not in page


def test_every_field_is_described() -> None:
    document = create_app(Settings()).openapi()
    for name, schema in {**document["components"]["schemas"], "Problem": Problem.model_json_schema()}.items():
        for field, of in schema.get("properties", {}).items():
            assert of.get("description"), f"{name}.{field}"
    for operations in document["paths"].values():
        for operation in operations.values():
            assert operation["summary"]
            assert operation["description"]
            assert all(p["description"] for p in operation.get("parameters", []))
