"""What the command line prints."""

from rich.table import Table
from rich.text import Text

from service.schemas import PhotoEmotions
from service.settings import Settings, environment_name

BAR = 20
"""Characters of a bar that stands for probability 1."""


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
    """Every setting: its variable, its value now, its meaning."""
    table = Table("variable", "value", "meaning")
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        shown = Text("-" if value is None else str(value), style="" if value == field.default else "bold")
        table.add_row(environment_name(name), shown, field.description or "")
    return table
