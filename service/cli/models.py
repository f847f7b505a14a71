"""`tandem model`: list a model's versions, and choose which of them Triton loads."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from service.cli.console import EXIT_FAILURE, print_error, read_settings

if TYPE_CHECKING:
    from service.cli.model_versions import VersionedModel

Result = TypeVar("Result")

app = typer.Typer(
    help="Switch from one version of the model to another and back without a restart: Triton follows a change of "
    "its model repository within seconds, and the gateways follow Triton.",
    no_args_is_help=True,
)

ModelRepository = Annotated[
    Path | None, typer.Option(help="Model repository that Triton serves [TANDEM_MODEL_REPOSITORY].")
]


@app.command("list")
def list_versions(model_repository: ModelRepository = None) -> None:
    """List the versions and show which are loaded."""
    from service.cli.model_versions import format_policy

    model = _open_model(model_repository)
    state = _or_exit(lambda: model.policy_state)
    active = _or_exit(lambda: model.active)
    for version in model.versions:
        role = "active" if version == active else "shadow" if version in state.current else ""
        typer.echo(f"{version}  {role}".rstrip())
    if not state.current:
        typer.echo("a newer version becomes active as soon as it is added")
    if state.previous is not None:
        typer.echo(f"`tandem model rollback` returns to: {format_policy(state.previous)}")


@app.command()
def activate(
    version: Annotated[str, typer.Argument(help="Version number to pin, or `newest`.")],
    model_repository: ModelRepository = None,
) -> None:
    """Make a version active. With a number, newer versions wait until they are activated."""
    if version != "newest" and not version.isdecimal():
        raise typer.BadParameter(f"{version!r} is neither a number nor 'newest'", param_hint="VERSION")
    model = _open_model(model_repository)
    _or_exit(lambda: model.activate(None if version == "newest" else int(version)))
    _print_active(model)


@app.command()
def shadow(
    version: Annotated[int, typer.Argument(help="Version number.")], model_repository: ModelRepository = None
) -> None:
    """Load a version beside the active one. Pin the gateways with TANDEM_MODEL_VERSION first."""
    model = _open_model(model_repository)
    _or_exit(lambda: model.shadow(version))
    _print_active(model)


@app.command()
def rollback(model_repository: ModelRepository = None) -> None:
    """Return to the versions loaded before the last change; a second rollback undoes the first."""
    model = _open_model(model_repository)
    _or_exit(model.roll_back)
    _print_active(model)


def _open_model(repository: Path | None) -> "VersionedModel":
    from service.cli.model_versions import VersionedModel

    settings = read_settings(model_repository=repository)
    return _or_exit(lambda: VersionedModel(settings.model_repository, settings.model_name))


def _or_exit(call: Callable[[], Result]) -> Result:
    from service.cli.model_versions import VersionChangeRefused

    try:
        return call()
    except (VersionChangeRefused, OSError) as error:
        print_error(str(error))
        raise typer.Exit(EXIT_FAILURE) from None


def _print_active(model: "VersionedModel") -> None:
    shadows = "".join(f", shadow {version}" for version in model.policy_state.current[1:])
    typer.echo(f"active: version {model.active}{shadows}; Triton follows within seconds")
