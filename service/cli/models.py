"""`tandem model`: which versions of the model are there, and which of them Triton loads."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from service.cli.console import FAILED, print_error, read_settings

if TYPE_CHECKING:
    from service.cli.model_versions import VersionedModel

Result = TypeVar("Result")

app = typer.Typer(
    help="Go from one version of the model to another and back, without a restart: a Triton that serves the model "
    "repository follows within seconds, and the gateways follow Triton.",
    no_args_is_help=True,
)

ModelRepository = Annotated[Path | None, typer.Option(help="Folder that Triton serves [TANDEM_MODEL_REPOSITORY].")]


@app.command("list")
def list_versions(model_repository: ModelRepository = None) -> None:
    """List the versions, and which are loaded."""
    from service.cli.model_versions import words

    model = _model(model_repository)
    loaded = _tried(lambda: model.loaded)
    active = _tried(lambda: model.active)
    for version in model.versions:
        role = "active" if version == active else "shadow" if version in loaded.policy else ""
        typer.echo(f"{version}  {role}".rstrip())
    if not loaded.policy:
        typer.echo("a newer one becomes active as soon as it is there")
    if loaded.former is not None:
        typer.echo(f"`tandem model rollback` goes to: {words(loaded.former)}")


@app.command()
def activate(
    version: Annotated[str, typer.Argument(help="Its number, which pins it; or `newest`.")],
    model_repository: ModelRepository = None,
) -> None:
    """Make a version the one that answers. Newer ones wait until they are activated."""
    if version != "newest" and not version.isdecimal():
        raise typer.BadParameter(f"{version!r} is neither a number nor «newest»", param_hint="VERSION")
    model = _model(model_repository)
    _tried(lambda: model.activate(None if version == "newest" else int(version)))
    _tell(model)


@app.command()
def shadow(
    version: Annotated[int, typer.Argument(help="Its number.")], model_repository: ModelRepository = None
) -> None:
    """Load a version beside the active one; TANDEM_MODEL_VERSION must pin the gateways first."""
    model = _model(model_repository)
    _tried(lambda: model.shadow(version))
    _tell(model)


@app.command()
def rollback(model_repository: ModelRepository = None) -> None:
    """Go back to what was loaded before; once more, and it is undone."""
    model = _model(model_repository)
    _tried(model.roll_back)
    _tell(model)


def _model(repository: Path | None) -> "VersionedModel":
    from service.cli.model_versions import VersionedModel

    settings = read_settings(model_repository=repository)
    return _tried(lambda: VersionedModel(settings.model_repository, settings.model_name))


def _tried(step: Callable[[], Result]) -> Result:
    from service.cli.model_versions import RolloutRefused

    try:
        return step()
    except (RolloutRefused, OSError) as error:
        print_error(str(error))
        raise typer.Exit(FAILED) from None


def _tell(model: "VersionedModel") -> None:
    loaded = model.loaded
    shadows = "".join(f", shadow {version}" for version in loaded.policy[1:])
    typer.echo(f"active: version {model.active}{shadows}; Triton follows within seconds")
