"""The `tandem` command and its subcommands.

Each subcommand imports what it needs when it runs, so that `tandem --help` is fast and `tandem install-triton`
works before the rest of the service is installed.
"""

import asyncio
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from service import __version__
from service.cli.console import (
    EXIT_FAILURE,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    print_error,
    print_status,
    printable,
    read_settings,
    stderr,
)
from service.cli.models import app as model_commands
from service.errors import ExtraMissing, install_command
from service.vision.file_types import PHOTO_FORMATS

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from service.cli.photo_files import FoundPhotos
    from service.cli.table_folder import Shard

app = typer.Typer(
    help="Post a photo and get the emotion that every face in it shows. Settings come from TANDEM_* variables "
    "and from a TOML file (TANDEM_CONFIG or ./tandem.toml); `tandem settings` lists them.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)

app.add_typer(model_commands, name="model")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tandem {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Add options to the command itself; its help is that of the app."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show stops no run


def _complete_url(url: str | None) -> str | None:
    from service.client import base_url

    try:
        return base_url(url) if url else None
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


Host = Annotated[str | None, typer.Option(help="Address to listen on [TANDEM_HOST].")]
Port = Annotated[int | None, typer.Option(help="Port to listen on; 0 picks a free one [TANDEM_PORT].")]
TritonUrl = Annotated[
    str | None,
    typer.Option(help="host:port of a Triton's gRPC endpoint; default: start one here [TANDEM_TRITON_URL]."),
]
ModelRepository = Annotated[
    Path | None, typer.Option(help="Model repository of the local Triton [TANDEM_MODEL_REPOSITORY].")
]
TritonHome = Annotated[
    Path | None, typer.Option(help="Folder where the local Triton is installed [TANDEM_TRITON_HOME].")
]
LogLevel = Annotated[
    str | None, typer.Option(help="Minimum log level: debug, info, warning or error [TANDEM_LOG_LEVEL].")
]
Url = Annotated[
    str | None,
    typer.Option(
        envvar="TANDEM_URL",
        callback=_complete_url,
        help="URL of the gateway. Default: the one on this machine, at TANDEM_HOST and TANDEM_PORT, or a "
        "temporary one if none is running.",
    ),
]
ApiKey = Annotated[
    str | None, typer.Option(envvar="TANDEM_API_KEY", help="API key for the gateway, if it requires one.")
]


@app.command()
def serve(
    host: Host = None,
    port: Port = None,
    triton_url: TritonUrl = None,
    model_repository: ModelRepository = None,
    triton_home: TritonHome = None,
    log_level: LogLevel = None,
) -> None:
    """Serve the HTTP API, with a local Triton unless --triton-url is given. Stop with Ctrl-C."""
    from service.cli.triton_download import install_triton
    from service.observability.logging import configure_logging
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
        if settings.triton_url is None:
            install_triton(settings.triton_home)
        server.serve(settings, announce=announce)
    except (server.PortInUse, server.NotReady, LocalTritonError, ExtraMissing, OSError) as error:
        print_error(str(error))
        raise typer.Exit(EXIT_FAILURE) from None
    except KeyboardInterrupt:  # while Triton was starting
        raise typer.Exit(EXIT_INTERRUPTED) from None


@app.command("install-triton")
def download_triton(triton_home: TritonHome = None) -> None:
    """Download the local Triton now. Otherwise the first `tandem serve` or `tandem predict` does."""
    from service.cli.triton_download import install_triton
    from service.triton.errors import LocalTritonError

    settings = read_settings(triton_home=triton_home)
    try:
        folder = install_triton(settings.triton_home)
    except (LocalTritonError, OSError) as error:
        print_error(str(error))
        raise typer.Exit(EXIT_FAILURE) from None
    typer.echo(f"Triton is installed in {folder}")


@app.command()
def predict(
    photos: Annotated[
        list[str],
        typer.Argument(
            help=f"Files in {PHOTO_FORMATS}, folders that hold them, or - for standard input; with --out FOLDER/, "
            "also addresses such as s3://bucket/folder.",
            show_default=False,
        ),
    ],
    recursive: Annotated[
        bool, typer.Option(help="Search the subfolders of folders too; --annotate keeps them.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON per photo.")] = False,
    out: Annotated[
        str | None,
        typer.Option(
            help="Write answers and errors to this .jsonl, .csv or .parquet file instead of printing them, or to "
            "Parquet files in this FOLDER/ or s3://bucket/folder. After an interruption, run the same command "
            "again to continue; what is finished takes further photos."
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Take one of N shares of the photos, I from 0, into --out FOLDER/.",
            show_default=False,
        ),
    ] = None,
    photos_per_file: Annotated[
        int, typer.Option(min=1, help="Photos in each file of --out FOLDER/; an interruption loses the last ones.")
    ] = 1000,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Send the photos that failed before and are in --out again.")
    ] = False,
    allow_failed: Annotated[
        bool,
        typer.Option("--allow-failed", help="Exit with 0 although photos failed; their rows in --out say why."),
    ] = False,
    concurrency: Annotated[
        int, typer.Option(min=1, max=256, help="Photos in flight at a time; without --out it is one.")
    ] = 8,
    annotate: Annotated[
        str | None,
        typer.Option(
            help="Write a copy of the photo with boxes and labels to this file; for several photos, into FOLDER/."
        ),
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Recognize the emotion that each face in PHOTOS shows.

    Exits with 1 if a photo failed, in this run or in an earlier one to the same --out, and with 2 if there is no
    photo.
    """
    from service.cli.gateway import open_client
    from service.cli.output_files import OutputUnusable
    from service.cli.photo_files import Copies
    from service.cli.predict import print_predictions, write_predictions
    from service.cli.table_folder import is_address, is_folder, predict_into_folder

    settings = read_settings()
    _check_out(out, annotate, {"--retry-failed": retry_failed, "--allow-failed": allow_failed}, as_json=as_json)
    if out and is_folder(out):
        if "-" in photos:
            raise typer.BadParameter("needs a file as --out, not a folder or bucket", param_hint="standard input")
        run = predict_into_folder(
            open_client(url, settings, api_key),
            photos,
            out,
            shard=_parse_shard(shard),
            photos_per_file=photos_per_file,
            concurrency=concurrency,
            recursive=recursive,
            retry_failed=retry_failed,
        )
        if _run(run, OutputUnusable) and not allow_failed:
            raise typer.Exit(EXIT_FAILURE)
        return
    if shard or any(is_address(photo) for photo in photos):
        raise typer.BadParameter("addresses and --shard need a folder: --out FOLDER/", param_hint="--out")
    marked = Path(annotate) if annotate else None
    found = _find_photos(photos, marked, recursive=recursive)
    copies = Copies(found, _annotation_targets(found.photos, annotate), settings.max_pixels) if annotate else None
    context = open_client(url, settings, api_key)
    if out:
        run = write_predictions(
            context, found, Path(out), copies, concurrency=concurrency, retry_failed=retry_failed
        )
        failures = _run(run, OutputUnusable)
    else:
        failures = _run(print_predictions(context, found, copies, as_json=as_json))
    if marked and marked.is_dir():
        print_status(f"photos with boxes and labels: {marked}/")
    if failures and not allow_failed:
        raise typer.Exit(EXIT_FAILURE)


def _check_out(out: str | None, annotate: str | None, needing_it: "Mapping[str, bool]", *, as_json: bool) -> None:
    """Check which options go with ``--out``; ``needing_it`` are those that need it, and whether they are given."""
    from service.cli.table_folder import is_address, is_folder

    if annotate and is_address(annotate):
        raise typer.BadParameter(
            f"{annotate} is an address; copies are written to a file or a folder of this machine",
            param_hint="--annotate",
        )
    if out and as_json:
        raise typer.BadParameter("writes to a file what --json prints: take one of them", param_hint="--out")
    if out and annotate and is_folder(out):
        raise typer.BadParameter("needs a file as --out, not a folder or bucket", param_hint="--annotate")
    for option, is_given in needing_it.items():
        if is_given and not out:
            raise typer.BadParameter("needs --out, which holds the photos that failed", param_hint=option)


def _find_photos(photos: list[str], copies: Path | None, *, recursive: bool) -> "FoundPhotos":
    """Find the photos and say what was skipped; exit with 2 if there is none."""
    from service.cli.photo_files import PHOTO_SUFFIXES, describe_skipped, find_photos

    found = find_photos(list(map(Path, photos)), recursive=recursive, copies=copies)
    if found.skipped:
        print_status(describe_skipped(found.skipped))
    for folder in found.empty_folders:
        print_error(f"{printable(str(folder))} holds no photo ({', '.join(PHOTO_SUFFIXES)})")
    if not found.photos:
        raise typer.Exit(EXIT_USAGE)
    return found


def _annotation_targets(photos: "Mapping[Path, Path]", annotate: str) -> dict[Path, Path]:
    from service.cli.photo_files import annotation_paths

    try:
        return annotation_paths(photos, Path(annotate), is_folder=annotate.endswith("/"))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--annotate") from None


def _parse_shard(text: str | None) -> "Shard":
    from service.cli.table_folder import Shard

    try:
        return Shard.parse(text or "0/1")
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--shard") from None


@app.command()
def example(
    photo: Annotated[Path, typer.Argument(help="File to write; it must not exist yet.")] = Path("photo.jpg"),
) -> None:
    """Write a JPEG of three drawn faces, to try the service without a photo at hand."""
    from service.api.ui import EXAMPLE

    try:
        with photo.open("xb") as file:
            file.write(EXAMPLE.read_bytes())
    except OSError as error:
        print_error(f"cannot be written: {error.strerror}", str(photo))
        raise typer.Exit(EXIT_FAILURE) from None
    print_status(f"three drawn faces: {printable(str(photo))}")


@app.command()
def video(
    video: Annotated[Path, typer.Argument(help="Video file in any format FFmpeg reads.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(help="Write the video with boxes, labels and its audio to this .mp4, .mov or .mkv file."),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(help="Write one row per face of each analyzed frame to this .csv file.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Plot each face's emotions over time to this .png, .svg or .pdf file."),
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Analyze every N-th frame only.")] = 1,
    fps: Annotated[
        float | None,
        typer.Option(min=0.001, help="Analyze at most this many frames per second of video.", show_default=False),
    ] = None,
    smooth: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=0.99,
            help="Weight of a face's previous probabilities in its next ones; 0 does not smooth. By default they "
            "fade with time, whatever the number of frames per second.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Frames in flight at a time.")] = 8,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Recognize the emotions that the faces in VIDEO show over time, and print a summary of each face.

    Exits with 1 if a frame fails.
    """
    try:
        from service.cli.gateway import open_client
        from service.cli.video import plot as video_plot
        from service.cli.video.command import FrameSampling, run_video
        from service.cli.video.io import SUFFIXES, VideoUnusable
        from service.cli.video.results import OutputPaths
    except ImportError as error:
        print_error(f"videos need PyAV and matplotlib: {install_command('video')} ({error})")
        raise typer.Exit(EXIT_FAILURE) from None

    settings = read_settings()
    allowed = {"--out": (out, SUFFIXES), "--csv": (csv, (".csv",)), "--plot": (plot, video_plot.SUFFIXES)}
    for option, (output, suffixes) in allowed.items():
        if output and output.suffix.lower() not in suffixes:
            raise typer.BadParameter(f"the suffix of {output} is none of {', '.join(suffixes)}", param_hint=option)
        if output and output.resolve() == video.resolve():
            raise typer.BadParameter(f"{output} is the input video", param_hint=option)
    outputs = OutputPaths(out, csv, plot)
    run = run_video(
        open_client(url, settings, api_key),
        video,
        outputs,
        FrameSampling(every, fps),
        smooth=smooth,
        concurrency=concurrency,
        as_json=as_json,
    )
    if _run(run, VideoUnusable):
        raise typer.Exit(EXIT_FAILURE)


@app.command()
def mcp(url: Url = None, api_key: ApiKey = None) -> None:
    """Serve the Model Context Protocol on standard input and output, with a tool that reads the faces of a photo.

    It asks the gateway at --url, by default the one on this machine, and can read every photo that you can.
    """
    try:
        from service.cli.gateway import own_url
        from service.cli.mcp import create_server
    except ImportError as error:
        print_error(f"this needs the SDK of the Model Context Protocol: {install_command('mcp')} ({error})")
        raise typer.Exit(EXIT_FAILURE) from None

    create_server(url or own_url(read_settings()), api_key).run()


def _run(coroutine: "Coroutine[Any, Any, int]", *expected: type[Exception]) -> int:
    """Run a coroutine and return its result; print an expected error and exit with 1."""
    from service.cli.predict import RunAborted
    from service.triton.errors import LocalTritonError

    known: tuple[type[Exception], ...] = (LocalTritonError, RunAborted, ExtraMissing, OSError, *expected)
    try:
        return asyncio.run(coroutine)
    except known as error:
        print_error(str(error))
        raise typer.Exit(EXIT_FAILURE) from None
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None


@app.command("create-key")
def create_api_key(
    name: Annotated[
        str, typer.Argument(help="Name of the key's owner: letters, digits, dots, dashes, underscores.")
    ],
) -> None:
    """Print a new API key, which cannot be shown again, and its line for TANDEM_API_KEYS_FILE."""
    from service.api_keys import create_key

    try:
        key = create_key(name)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="NAME") from None
    stderr.print("The key, for its owner; it cannot be shown again:", highlight=False)
    typer.echo(key.secret)
    stderr.print("Its line, for the gateway's TANDEM_API_KEYS_FILE:", highlight=False)
    typer.echo(key.line)


@app.command("settings")
def show_settings() -> None:
    """List every setting with its value, where the value comes from, what is allowed, and what it does."""
    from service.cli.console import settings_table

    Console().print(settings_table(read_settings()))


@app.command()
def doctor() -> None:
    """Say what is here and what is wrong, with the remedy.

    Looks at settings, Python, processor, Triton, model, ports and proxies, and changes nothing. Exits with 1 if
    something keeps the service from working.
    """
    from service.cli.doctor import examine, findings_table

    findings = list(examine())
    Console().print(findings_table(findings))
    if any(finding.state == "problem" for finding in findings):
        raise typer.Exit(EXIT_FAILURE)


@app.command()
def openapi() -> None:
    """Print the OpenAPI document of the HTTP API."""
    from service.api.app import create_app

    try:
        document = create_app(read_settings()).openapi()
    except ExtraMissing as error:
        print_error(str(error))
        raise typer.Exit(EXIT_FAILURE) from None
    typer.echo(json.dumps(document, indent=2))
