"""What a fault did, measured, as a row of the table in docs/reliability.md."""

import re
from dataclasses import dataclass, field

BEGIN, END = "<!-- faults: written by pytest -->", "<!-- end of faults -->"


@dataclass
class Measured:
    """One fault: what its callers saw, after how many seconds all was well again, what was counted for leaks."""

    test: str
    fault: str = ""
    seen: dict[str, int] = field(default_factory=dict)
    slowest_s: float | None = None
    back_s: float | None = None
    checked: str = ""

    def line(self) -> str:
        answers = ", ".join(f"{count} × {name}" for name, count in sorted(self.seen.items()))
        slowest = "" if self.slowest_s is None else f"{self.slowest_s:.1f} s"
        back = "at once" if self.back_s is None else f"{self.back_s:.1f} s"
        return f"| {self.fault} | {answers} | {slowest} | {back} | {self.checked} | `{self.test}` |"


def render(text: str, rows: list[Measured]) -> str:
    """The text with its table replaced."""
    head = [
        "| fault | what callers saw | slowest | back after | no more than before | shown by |",
        "|" + "---|" * 6,
    ]
    table = "\n".join([BEGIN, "", *head, *(row.line() for row in rows), "", END])
    rendered, count = re.subn(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: table, text, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"{count} places for a table of faults; one is needed")
    return rendered
