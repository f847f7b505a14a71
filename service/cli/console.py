"""Settings, exit codes, messages, tables and progress bars that the `tandem` commands share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from service.cli.settings_errors import format_errors, unknown_variables
from service.schemas import PhotoEmotions
from service.settings import ConfigUnusable, Settings, allowed, environment_name, origin_of

stderr = Console(stderr=True)

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

BAR_WIDTH = 20
"""Characters of a confidence bar at probability 1."""


def print_error(message: str) -> None:
    """Print an error message to standard error."""
    stderr.print(message, style="red", soft_wrap=True, markup=False, highlight=False)


def print_status(message: str) -> None:
    """Print a status message to standard error; standard output is for results."""
    stderr.print(message, soft_wrap=True, markup=False, highlight=False)


def read_settings(**options: Any) -> Settings:
    """Read settings from options, then the environment, then the TOML file; exit with 2 if one is invalid."""
    given = {name: value for name, value in options.items() if value is not None}
    misspelled, unknown = unknown_variables()
    for message in misspelled + unknown:
        print_error(message)
    if misspelled:
        raise typer.Exit(EXIT_USAGE)
    try:
        return Settings(**given)
    except (ConfigUnusable, SettingsError) as error:
        print_error(str(error))
        raise typer.Exit(EXIT_USAGE) from None
    except ValidationError as error:
        for message in format_errors(error):
            print_error(message)
        raise typer.Exit(EXIT_USAGE) from None


def face_table(name: str, answer: PhotoEmotions) -> Table:
    """Return a table of a photo's faces: box, emotion, confidence and runner-up."""
    title = f"{name}  {answer.image.width} x {answer.image.height}"
    table = Table("face", "box", "emotion", "confidence", "", "next", title=title, title_justify="left")
    for number, face in enumerate(answer.faces, start=1):
        box = face.box
        ranking = sorted(face.emotions.items(), key=lambda item: item[1], reverse=True)
        runner_up = f"{ranking[1][0]} {ranking[1][1]:.0%}" if len(ranking) > 1 else ""
        table.add_row(
            str(number),
            f"{box.width:.0f} x {box.height:.0f} at {box.x:.0f}, {box.y:.0f}",
            Text(face.emotion, style="bold"),
            f"{face.confidence:.0%}",
            "█" * round(face.confidence * BAR_WIDTH),
            runner_up,
        )
    if not answer.faces:
        table.caption = "no face found"
    return table


def settings_table(settings: Settings) -> Table:
    """Return a table of all settings: variable, value, source of the value, allowed values, meaning."""
    table = Table("variable", "value", "from", "allowed", "meaning")
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        origin = origin_of(name, value)
        shown = "-" if value in (None, "", ()) else str(value) if field.repr else "set"
        style = "" if origin == "default" else "bold"
        table.add_row(
            environment_name(name), Text(shown, style=style), origin, allowed(field), field.description or ""
        )
    return table


class RateColumn(ProgressColumn):
    """Photos or frames per second."""

    def render(self, task: Task) -> Text:
        """Show the recent rate, or the overall rate once the task is finished."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} {task.description}/s")


@contextmanager
def progress_bar(console: Console, unit: str, *, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a progress bar with rate and time left.

    Args:
        console: where to show it.
        unit: what is counted, such as "photos".
        total: number of units; None if unknown.

    Yields:
        A function that advances the bar by a number of units.
    """
    columns = (BarColumn(), MofNCompleteColumn(), RateColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(unit, total=total)
        yield lambda count: progress.advance(task, count)
