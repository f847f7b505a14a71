"""The corpus's results as a table: files by kind and answer, the longest time, the highest peak of memory.

python -m tests.hostile               # the table
python -m tests.hostile --write DIR   # the files themselves
"""

import faulthandler
import sys
from collections import Counter
from pathlib import Path

from .corpus import HostileFile, corpus
from .trial import Outcome, outcomes

MAX_SECONDS = 5.0
"""CPU time that a file may take: what other processes do at the time is not its fault."""

MAX_MIB = 300
"""Memory that a file may take; the largest that is decoded has 16 Mpx."""


def table(done: list[Outcome]) -> str:
    """Rows of kinds, columns of answers, as Markdown."""
    answers = sorted({outcome.answer for outcome in done})
    rows = [("kind", "files", *answers, "most CPU s", "peak MiB")]
    kinds = list(dict.fromkeys(outcome.file.kind for outcome in done))
    for kind in [*kinds, "all"]:
        of_kind = [outcome for outcome in done if kind in (outcome.file.kind, "all")]
        count = Counter(outcome.answer for outcome in of_kind)
        longest, peak = (max(of_kind, key=lambda o, by=by: getattr(o, by)) for by in ("seconds", "peak_mib"))
        figures = (f"{longest.seconds:.2f}", f"{peak.peak_mib:.0f}")
        rows.append((kind, str(len(of_kind)), *(str(count[answer]) for answer in answers), *figures))
    rows.insert(1, ("---",) * len(rows[0]))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main(arguments: list[str]) -> None:
    """Try every file, or write them all."""
    if arguments[:1] == ["--write"]:
        folder = Path(arguments[1])
        folder.mkdir(parents=True, exist_ok=True)
        for number, file in enumerate(corpus()):
            (folder / f"{number:04} {file.kind} {file.name.replace('/', ' ')}").write_bytes(file.data)
        return
    faulthandler.enable()

    def announce(file: HostileFile) -> None:
        # On its way out before the file is read: after a crash it says which it was.
        print(f"{file.kind}: {file.name}", file=sys.stderr, flush=True)

    done = list(outcomes(corpus(), announce))
    print(table(done))
    for what, unit in (("seconds", "s"), ("peak_mib", "MiB")):
        worst = max(done, key=lambda outcome, what=what: getattr(outcome, what))
        print(f"most {what}: {worst.file.kind}, {worst.file.name}: {getattr(worst, what):.2f} {unit}")
    beyond = [o for o in done if o.seconds > MAX_SECONDS or o.peak_mib > MAX_MIB]
    for o in beyond:
        print(f"too much: {o.file.kind}, {o.file.name}: {o.seconds:.1f} s, {o.peak_mib:.0f} MiB")
    sys.exit(1 if beyond else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
