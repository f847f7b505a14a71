"""Settings, exit codes, messages, tables and progress bars that the `tandem` commands share."""

import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from service.cli.settings_errors import format_errors, unknown_variables
from service.schemas import PhotoEmotions
from service.settings import ConfigUnusable, Settings, allowed, environment_name, origin_of

stderr = Console(stderr=True)

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

BAR_WIDTH = 10
"""Characters of a confidence bar at probability 1."""


NARROW: Final[dict[str, Any]] = {
    "box": SIMPLE_HEAD,
    "show_edge": False,
    "pad_edge": False,
    "padding": (0, 1, 0, 0),
}
"""Arguments of a table that fits 80 columns."""


def printable(text: str) -> str:
    """Escape what may not be printed, so that a file's name can neither break a line nor control the terminal."""
    return "".join(
        each if each.isprintable() or unicodedata.category(each) == "Zs" else ascii(each)[1:-1] for each in text
    )


def counted(number: int, noun: str) -> str:
    """Return a number of things, such as "1 photo" or "2 photos"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def print_error(message: str, name: str = "") -> None:
    """Print an error message to standard error, behind the name of what it is about."""
    message = f"{printable(name)}: {message}" if name else message
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
    """Return a table of a photo's faces that fits 80 columns: box, emotion, confidence and runner-up.

    A question mark is behind an emotion that is doubtful, and the reasons are below the table.
    """
    title = Text(f"{printable(name)}  {answer.image.width} x {answer.image.height}", style="table.title")
    table = Table("face", "box", "emotion", "", "", "next", title=title, title_justify="left", **NARROW)
    table.caption_justify = "left"
    doubts = []
    for number, face in enumerate(answer.faces, start=1):
        box = face.box
        ranking = sorted(face.emotions.items(), key=lambda item: item[1], reverse=True)
        runner_up = f"{ranking[1][0]} {ranking[1][1]:.0%}" if len(ranking) > 1 else ""
        table.add_row(
            str(number),
            f"{box.width:.0f} x {box.height:.0f} at {box.x:.0f}, {box.y:.0f}",
            Text(face.emotion if face.reliable else f"{face.emotion} ?", style="bold"),
            f"{face.confidence:.0%}",
            "█" * round(face.confidence * BAR_WIDTH),
            runner_up,
        )
        if not face.reliable:
            doubts.append(f"face {number}: {', '.join(face.unreliable_because)}")
    table.caption = Text(f"? {'; '.join(doubts)}" if doubts else "" if answer.faces else "no face found")
    return table


def settings_table(settings: Settings) -> Table:
    """Return a table of all settings: variable, value and its source, meaning and allowed values."""
    table = Table("variable", Column("value", overflow="fold", max_width=16), "meaning", **NARROW)
    table.columns[0].no_wrap = True
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        origin = origin_of(name, value)
        shown = "-" if value in (None, "", ()) else str(value) if field.repr else "set"
        limits = f" Allowed: {allowed(field)}." if allowed(field) else ""
        table.add_row(
            environment_name(name),
            Text(shown) if origin == "default" else Text(f"{shown}\n({origin})", style="bold"),
            f"{field.description or ''}{limits}",
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
