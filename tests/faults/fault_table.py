"""The table of measured effects of faults in docs/reliability.md."""

import re
from dataclasses import dataclass, field

BEGIN, END = "<!-- faults: written by pytest -->", "<!-- end of faults -->"


@dataclass
class FaultRow:
    """One fault: how often callers saw each outcome, seconds until recovery, resources checked for leaks."""

    test: str
    fault: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    slowest_s: float | None = None
    back_s: float | None = None
    checked: str = ""

    def line(self) -> str:
        answers = ", ".join(f"{count} × {name}" for name, count in sorted(self.counts.items()))
        slowest = "" if self.slowest_s is None else f"{self.slowest_s:.1f} s"
        back = "at once" if self.back_s is None else f"{self.back_s:.1f} s"
        return f"| {self.fault} | {answers} | {slowest} | {back} | {self.checked} | `{self.test}` |"


def render(text: str, rows: list[FaultRow]) -> str:
    """Replace the table in ``text``."""
    head = [
        "| fault | what callers saw | slowest | back after | no more than before | shown by |",
        "|" + "---|" * 6,
    ]
    table = "\n".join([BEGIN, "", *head, *(row.line() for row in rows), "", END])
    rendered, count = re.subn(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: table, text, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"found {count} tables of faults instead of one")
    return rendered
