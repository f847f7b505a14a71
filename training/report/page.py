"""The report as one self-contained HTML page, and as Markdown with separate plots."""

from base64 import b64encode
from collections.abc import Iterable
from html import escape
from pathlib import Path
from string import Template

from training.report.sections import Plot, Section, write_sections
from training.runs import current_commit
from training.settings.commands import ReportSettings
from training.tables import Table

TITLE = "Tandem: training and results"
STATEMENT = "Labels describe what a face shows, not what a person feels."
PAGE_TEMPLATE = Path(__file__).parent / "page.html.template"


def write_report(settings: ReportSettings) -> None:
    """Write ``report.html``, which contains its plots, and ``report.md`` with its plots as PNG files."""
    sections = list(write_sections(settings))
    settings.out.mkdir(parents=True, exist_ok=True)
    (settings.out / "report.html").write_text(render_html(sections))
    (settings.out / "report.md").write_text(render_markdown(sections))
    for section in sections:
        for part in section.parts:
            if isinstance(part, Plot):
                (settings.out / f"{part.name}.png").write_bytes(part.png)
    print(f"{settings.out / 'report.html'} and {settings.out / 'report.md'}")


def render_html(sections: Iterable[Section]) -> str:
    """Render the report as an HTML page with embedded plots."""
    body = "\n".join(
        f"<section>\n<h2>{escape(section.heading)}</h2>\n" + "\n".join(map(_html, section.parts)) + "\n</section>"
        for section in sections
    )
    return Template(PAGE_TEMPLATE.read_text()).substitute(
        title=escape(TITLE), statement=escape(STATEMENT), commit=current_commit(), body=body
    )


def _html(part: Table | Plot | str) -> str:
    if isinstance(part, Table):
        return part.html()
    if isinstance(part, Plot):
        image = b64encode(part.png).decode()
        caption = escape(part.caption)
        return (
            f'<figure><img alt="{caption}" src="data:image/png;base64,{image}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    return f"<p>{escape(part)}</p>"


def render_markdown(sections: Iterable[Section]) -> str:
    """Render the report as Markdown that refers to the plots by file name."""
    lines = [f"# {TITLE}", "", f"{STATEMENT} Commit `{current_commit()}`.", ""]
    for section in sections:
        lines += [f"## {section.heading}", "", *map(_markdown, section.parts)]
    return "\n".join(lines)


def _markdown(part: Table | Plot | str) -> str:
    if isinstance(part, Table):
        return part.markdown()
    if isinstance(part, Plot):
        return f"![{part.caption}]({part.name}.png)\n"
    return part + "\n"
