"""Tables of results, for the terminal, Markdown and HTML."""

from dataclasses import dataclass
from html import escape

from rich.console import Console
from rich.table import Table as RichTable


@dataclass(frozen=True)
class Table:
    """A title, column headers, rows of as many cells, and a note on how to read them."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"table {self.title!r} has a row of {len(row)} cells for {len(self.columns)} columns"
                )

    def print(self) -> None:
        """Print the table to the terminal."""
        table = RichTable(*self.columns, title=self.title, caption=self.note or None, caption_justify="left")
        for row in self.rows:
            table.add_row(*row)
        Console().print(table)

    def markdown(self) -> str:
        """Render the table as a section of a Markdown page."""
        lines = [f"### {self.title}", "", _line(self.columns), _line(("---",) * len(self.columns))]
        lines += [_line(tuple(cell.replace("|", "\\|") for cell in row)) for row in self.rows]
        return "\n".join([*lines, *(["", self.note] if self.note else [])]) + "\n"

    def html(self) -> str:
        """Render the table as a section of an HTML page."""
        head = "".join(f"<th>{escape(column)}</th>" for column in self.columns)
        body = "\n".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in self.rows
        )
        note = f"<p>{escape(self.note)}</p>\n" if self.note else ""
        return (
            f"<h3>{escape(self.title)}</h3>\n<table>\n<thead><tr>{head}</tr></thead>\n"
            f"<tbody>\n{body}\n</tbody>\n</table>\n{note}"
        )


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"


def percent(value: float) -> str:
    """Format a fraction 0..1 in percent, without the sign."""
    return f"{100 * value:.2f}"


def percent_range(low: float, high: float) -> str:
    """Format an interval of fractions in percent, without the sign."""
    return f"{100 * low:.2f} to {100 * high:.2f}"
