"""The `tandem` command.

What a command needs is imported in it: `tandem --help` and `tandem install-triton` are quick, and the latter
works where the rest of the service is not installed yet.
"""

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from service.cli.console import FAILED, errors, print_error, read_settings
from service.cli.models import app as model_commands
from service.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from service.cli.jobs import Gateway

app = typer.Typer(
    help="Post a photo, get the emotion that every face in it shows. Settings come from TANDEM_* variables "
    "and from a TOML file, TANDEM_CONFIG or ./tandem.toml: `tandem settings` lists them.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)

app.add_typer(model_commands, name="model")

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
Url = Annotated[
    str | None,
    typer.Option(
        envvar="TANDEM_URL",
        help="Gateway to ask. Default: the one on this machine, else one that runs for this command only.",
    ),
]
ApiKey = Annotated[
    str | None, typer.Option(envvar="TANDEM_API_KEY", help="Key to show the gateway, where it wants one.")
]
Concurrency = Annotated[int, typer.Option(min=1, max=256, help="Photos or frames asked for at a time.")]


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
    from service.observability.logging import configure_logging
    from service.observability.tracing import TracingUnavailable
    from service.server import main as server
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
        server.serve(settings, announce=announce)
    except (server.PortTaken, server.NotReady, LocalTritonError, TracingUnavailable, OSError) as error:
        print_error(str(error))
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:  # while Triton was starting
        raise typer.Exit(130) from None


@app.command("install-triton")
def install_triton(triton_home: TritonHome = None) -> None:
    """Fetch the local Triton, once; `tandem serve` and `tandem predict` start it."""
    from service.triton import install
    from service.triton.errors import LocalTritonError

    settings = read_settings(triton_home=triton_home)
    try:
        with errors.status("Fetching Triton"):
            folder = install.install(settings.triton_home)
    except (LocalTritonError, OSError) as error:
        print_error(str(error))
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
    concurrency: Concurrency = 8,
    annotate: Annotated[
        Path | None,
        typer.Option(help="Write the photo with boxes and labels to this file; for several photos, a folder."),
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Tell the emotion that each face in PHOTOS shows. Exits with 1 when a photo failed."""
    from service.cli import jobs
    from service.cli import predict as prediction
    from service.cli.output_files import OutputUnusable

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
    gateway = _gateway(url, settings, api_key)
    if out:
        failures = _run(jobs.predict_to_file(gateway, photos, out, concurrency), OutputUnusable)
    else:
        failures = _run(jobs.predict_to_screen(gateway, photos, targets, settings, as_json=as_json))
    if failures:
        raise typer.Exit(FAILED)


@app.command()
def video(
    film: Annotated[Path, typer.Argument(help="A video file that FFmpeg reads.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(help="Write the video with boxes, labels and its sound to this .mp4, .mov or .mkv file."),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(help="Write a row for each face of each frame that was read to this .csv file.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw each face's emotions over time into this .png, .svg or .pdf file."),
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Read each so many-th frame only.")] = 1,
    fps: Annotated[
        float | None, typer.Option(min=0.001, help="Read at most so many frames of a second.", show_default=False)
    ] = None,
    smooth: Annotated[
        float,
        typer.Option(min=0, max=0.99, help="How much of a face's former probabilities stays in the next ones."),
    ] = 0,
    concurrency: Concurrency = 8,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Tell the emotions that the faces of a video show, over time. Exits with 1 when that failed."""
    try:
        from service.cli import jobs
        from service.cli.video import plot as video_plot
        from service.cli.video.command import Outputs, Sampling
        from service.cli.video.io import SUFFIXES, VideoUnusable
    except ImportError as error:
        print_error(f"videos need PyAV and matplotlib: pip install 'tandem[video]' ({error})")
        raise typer.Exit(FAILED) from None

    settings = read_settings()
    allowed = {"--out": (out, SUFFIXES), "--csv": (csv, (".csv",)), "--plot": (plot, video_plot.SUFFIXES)}
    for option, (path, suffixes) in allowed.items():
        if path and path.suffix.lower() not in suffixes:
            raise typer.BadParameter(f"{path} ends in none of {', '.join(suffixes)}", param_hint=option)
        if path and path.resolve() == film.resolve():
            raise typer.BadParameter(f"{path} is the video itself", param_hint=option)
    outputs = Outputs(out, csv, plot)
    if not outputs.paths:
        raise typer.BadParameter("give --out, --csv or --plot, or several of them")
    job = jobs.read_video(
        _gateway(url, settings, api_key),
        film,
        outputs,
        Sampling(every, fps),
        smooth=smooth,
        concurrency=concurrency,
    )
    if _run(job, VideoUnusable, OSError):
        raise typer.Exit(FAILED)


def _gateway(url: str | None, settings: Settings, api_key: str | None) -> "Gateway":
    """The gateway at ``url``, else the one on this machine, else one in this process."""
    from service.cli import predict as prediction

    if url is None and prediction.listens(prediction.DEFAULT_URL):
        url = prediction.DEFAULT_URL
    return prediction.remote_gateway(url, settings, api_key) if url else prediction.own_gateway(settings)


def _run(job: "Coroutine[Any, Any, int]", *expected: type[Exception]) -> int:
    """What a job returns; exits with its message where it ends with one of the errors that it may."""
    from service.cli.predict import Stopped
    from service.triton.errors import LocalTritonError

    known: tuple[type[Exception], ...] = (LocalTritonError, Stopped, *expected)
    try:
        return asyncio.run(job)
    except known as error:
        print_error(str(error))
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


@app.command("create-key")
def create_api_key(
    name: Annotated[str, typer.Argument(help="Whose key it is: letters, digits, dots, dashes, underscores.")],
) -> None:
    """Print a new API key, which is shown this once, and the line to keep of it in TANDEM_API_KEYS_FILE."""
    from service.api_keys import create_key

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
    from service.cli.console import settings_table

    Console().print(settings_table(read_settings()))


@app.command()
def openapi() -> None:
    """Print the OpenAPI document of the HTTP API."""
    from service.api.app import create_app

    typer.echo(json.dumps(create_app(read_settings()).openapi(), indent=2))
