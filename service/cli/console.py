"""What the commands of `tandem` share: their settings, how they end, and what they print."""

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

from service.schemas import PhotoEmotions
from service.settings import ConfigUnusable, Settings, allowed, environment_name, format_errors, origin_of

errors = Console(stderr=True)

FAILED = 1
USAGE = 2

BAR = 20
"""Characters of a bar that stands for probability 1."""


def print_error(message: str) -> None:
    """Print to standard error what is wrong."""
    errors.print(message, style="red", soft_wrap=True, markup=False, highlight=False)


def print_status(message: str) -> None:
    """Print to standard error how it went: standard output is for results."""
    errors.print(message, soft_wrap=True, markup=False, highlight=False)


def read_settings(**options: Any) -> Settings:
    """Settings from options, environment and TOML file, in this order; exits with 2 where one is wrong."""
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return Settings(**given)
    except (ConfigUnusable, SettingsError) as error:
        print_error(str(error))
        raise typer.Exit(USAGE) from None
    except ValidationError as error:
        for fault in format_errors(error):
            print_error(fault)
        raise typer.Exit(USAGE) from None


def face_table(name: str, answer: PhotoEmotions) -> Table:
    """The faces of one photo: where they are, what they show, and the runner-up."""
    title = f"{name}  {answer.image.width} x {answer.image.height}"
    table = Table("face", "box", "emotion", "confidence", "", "next", title=title, title_justify="left")
    for number, face in enumerate(answer.faces, start=1):
        box = face.box
        ranking = sorted(face.emotions.items(), key=lambda item: item[1], reverse=True)
        following = f"{ranking[1][0]} {ranking[1][1]:.0%}" if len(ranking) > 1 else ""
        table.add_row(
            str(number),
            f"{box.width:.0f} x {box.height:.0f} at {box.x:.0f}, {box.y:.0f}",
            Text(face.emotion, style="bold"),
            f"{face.confidence:.0%}",
            "█" * round(face.confidence * BAR),
            following,
        )
    if not answer.faces:
        table.caption = "no face found"
    return table


def settings_table(settings: Settings) -> Table:
    """Every setting: its variable, its value now, where that is from, what is allowed, its meaning."""
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
    """Photos or frames a second."""

    def render(self, task: Task) -> Text:
        """The rate of late, or over all once it is done."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} {task.description}/s")


@contextmanager
def progress_bar(console: Console, unit: str, *, total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar with rate and time left; gives what advances it by a number of ``unit``, «photos»."""
    columns = (BarColumn(), MofNCompleteColumn(), RateColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(unit, total=total)
        yield lambda count: progress.advance(task, count)
