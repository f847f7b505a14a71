"""The `tandem` command.

What a command needs is imported in it: `tandem --help` and `tandem install-triton` are quick, and the latter
works where the rest of the service is not installed yet.
"""

import asyncio
import json
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError
from rich.console import Console

from service.settings import ConfigUnusable, Settings, faults

if TYPE_CHECKING:
    from service.client import AsyncClient

app = typer.Typer(
    help="Post a photo, get the emotion that every face in it shows. Settings come from TANDEM_* variables "
    "and from a TOML file, TANDEM_CONFIG or ./tandem.toml: `tandem settings` lists them.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)

FAILED = 1
USAGE = 2

errors = Console(stderr=True)


def read_settings(**options: Any) -> Settings:
    """Settings from options, environment and TOML file, in this order; exits with 2 where one is wrong."""
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return Settings(**given)
    except (ConfigUnusable, SettingsError) as error:
        _complain(str(error))
        raise typer.Exit(USAGE) from None
    except ValidationError as error:
        for fault in faults(error):
            _complain(fault)
        raise typer.Exit(USAGE) from None


def _complain(message: str) -> None:
    errors.print(message, style="red", soft_wrap=True, markup=False, highlight=False)


Host = Annotated[str | None, typer.Option(help="Address to listen on [TANDEM_HOST].")]
Port = Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one [TANDEM_PORT].")]
TritonUrl = Annotated[
    str | None,
    typer.Option(help="host:port of a Triton's gRPC endpoint; else a local one is started [TANDEM_TRITON_URL]."),
]
ModelRepository = Annotated[
    Path | None, typer.Option(help="What the local Triton loads [TANDEM_MODEL_REPOSITORY].")
]
TritonHome = Annotated[
    Path | None, typer.Option(help="Folder of the local Triton's installation [TANDEM_TRITON_HOME].")
]
LogLevel = Annotated[str | None, typer.Option(help="debug, info, warning or error [TANDEM_LOG_LEVEL].")]


@app.command()
def serve(
    host: Host = None,
    port: Port = None,
    triton_url: TritonUrl = None,
    model_repository: ModelRepository = None,
    triton_home: TritonHome = None,
    log_level: LogLevel = None,
) -> None:
    """Serve the HTTP API, with a local Triton unless --triton-url names one. Ctrl-C ends it."""
    from service import serving
    from service.telemetry import configure_logging
    from service.tracing import TracingUnavailable
    from service.triton.errors import LocalTritonError

    settings = read_settings(
        host=host,
        port=port,
        triton_url=triton_url,
        model_repository=model_repository,
        triton_home=triton_home,
        log_level=log_level,
    )
    configure_logging(settings.log_level)
    console = Console()

    def announce(url: str) -> None:
        console.print(f"Tandem is ready: {url}  (reference at {url}/docs)", soft_wrap=True, highlight=False)

    try:
        serving.serve(settings, announce=announce)
    except (serving.PortTaken, serving.NotReady, LocalTritonError, TracingUnavailable, OSError) as error:
        _complain(str(error))
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:  # while Triton was starting
        raise typer.Exit(130) from None


@app.command("install-triton")
def install_triton(triton_home: TritonHome = None) -> None:
    """Fetch the local Triton, once; `tandem serve` and `tandem predict` start it."""
    from service.triton import wheel
    from service.triton.errors import LocalTritonError

    settings = read_settings(triton_home=triton_home)
    try:
        with errors.status("Fetching Triton"):
            folder = wheel.install(settings.triton_home)
    except (LocalTritonError, OSError) as error:
        _complain(str(error))
        raise typer.Exit(FAILED) from None
    typer.echo(f"Triton is in {folder}")


@app.command()
def predict(
    photos: Annotated[
        list[Path], typer.Argument(help="JPEG, PNG, WebP or HEIC files, and folders of them.", show_default=False)
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a photo, a line each.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write the answers to this .jsonl, .csv or .parquet file, errors too, instead of printing them. "
            "The same command goes on where it was interrupted."
        ),
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Photos asked for at a time, with --out.")] = 8,
    annotate: Annotated[
        Path | None,
        typer.Option(help="Write the photo with boxes and labels to this file; for several photos, a folder."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            envvar="TANDEM_URL",
            help="Gateway to ask. Default: the one on this machine, else one that runs for this command only.",
        ),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="TANDEM_API_KEY", help="Key to show the gateway, where it wants one.")
    ] = None,
) -> None:
    """Tell the emotion that each face in PHOTOS shows. Exits with 1 when a photo failed."""
    from service import prediction
    from service.records import OutputUnusable
    from service.triton.errors import LocalTritonError

    settings = read_settings()
    if out and (annotate or as_json):
        raise typer.BadParameter("goes with neither --json nor --annotate", param_hint="--out")
    photos = prediction.expand(photos)
    targets: list[Path] | None = None
    if annotate:
        try:
            targets = prediction.annotation_paths(photos, annotate)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--annotate") from None
    if url is None and prediction.listens(prediction.DEFAULT_URL):
        url = prediction.DEFAULT_URL
    gateway = prediction.remote_gateway(url, settings, api_key) if url else prediction.own_gateway(settings)
    try:
        if out:
            failures = asyncio.run(_predict_to_file(gateway, photos, out, concurrency))
        else:
            failures = asyncio.run(_predict(gateway, photos, targets, settings, as_json=as_json))
    except (LocalTritonError, OutputUnusable) as error:
        _complain(str(error))
        raise typer.Exit(FAILED) from None
    except prediction.Stopped as error:
        _complain(f"{error}\nwhat is done is kept; the same command goes on from there")
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if failures:
        raise typer.Exit(FAILED)


async def _predict(
    gateway: "AbstractAsyncContextManager[AsyncClient]",
    photos: list[Path],
    targets: list[Path] | None,
    settings: Settings,
    *,
    as_json: bool,
) -> int:
    """Print an answer for each photo; returns how many failed."""
    from service.prediction import PhotoFailed, Stopped, predict, write_annotated
    from service.terminal import face_table

    console = Console()
    failures = 0
    async with gateway as client:
        for number, photo in enumerate(photos):
            try:
                answer = await predict(client, photo)
                if targets:
                    write_annotated(photo, answer, targets[number], settings)
            except (PhotoFailed, OSError) as error:
                failures += 1
                _complain(f"{photo}: {error}")
                continue
            except Stopped as error:
                _complain(f"{photo}: {error}")
                return failures + 1
            if as_json:
                typer.echo(json.dumps({"photo": str(photo), **answer.model_dump()}))
            else:
                console.print(face_table(str(photo), answer))
    return failures


async def _predict_to_file(
    gateway: "AbstractAsyncContextManager[AsyncClient]", photos: list[Path], out: Path, concurrency: int
) -> int:
    """Write an answer for each photo, with progress on standard error; returns how many failed."""
    from service.prediction import predict_all
    from service.records import Journal, finish, journal_path
    from service.terminal import photo_progress

    journal = Journal(journal_path(out))
    failures = 0
    try:
        with photo_progress(errors, total=len(photos)) as advance:
            already = sum(str(photo) in journal.done for photo in photos)
            advance(already)

            def on_done(photo: Path, error: str | None) -> None:
                nonlocal failures
                advance(1)
                if error:
                    failures += 1
                    _complain(f"{photo}: {error}")

            async with gateway as client:
                await predict_all(client, photos, journal, concurrency=concurrency, on_done=on_done)
    finally:
        journal.close()
    finish(journal.path, out)
    done = f"{len(photos)} photos, {failures} failed"
    errors.print(
        f"{done}, {already} done before: {out}" if already else f"{done}: {out}", soft_wrap=True, highlight=False
    )
    return failures


@app.command("create-key")
def create_api_key(
    name: Annotated[str, typer.Argument(help="Whose key it is: letters, digits, dots, dashes, underscores.")],
) -> None:
    """Print a new API key, which is shown this once, and the line to keep of it in TANDEM_API_KEYS_FILE."""
    from service.keys import create_key

    try:
        key = create_key(name)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="NAME") from None
    errors.print("The key, for its owner; it cannot be shown again:", highlight=False)
    typer.echo(key.secret)
    errors.print("Its line, for the gateway's TANDEM_API_KEYS_FILE:", highlight=False)
    typer.echo(key.line)


@app.command("settings")
def show_settings() -> None:
    """List every setting: its variable, its value now and where that is from, what is allowed, its meaning."""
    from service.terminal import settings_table

    Console().print(settings_table(read_settings()))


@app.command()
def openapi() -> None:
    """Print the OpenAPI document of the HTTP API."""
    from service.app import create_app

    typer.echo(json.dumps(create_app(read_settings()).openapi(), indent=2))


if __name__ == "__main__":
    app()
