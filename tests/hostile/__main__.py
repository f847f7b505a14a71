"""Process the corpus and print a table: files by kind and answer, the longest time and the highest peak of memory.

python -m tests.hostile               # print the table
python -m tests.hostile --write DIR   # write the files
"""

import faulthandler
import sys
from collections import Counter
from pathlib import Path

from .corpus import HostileFile, corpus
from .trial import Outcome, outcomes

MAX_SECONDS = 5.0
"""CPU time per file, which does not depend on the load of the machine."""

MAX_MIB = 300
"""Memory per file; the largest that is decoded has 16 Mpx."""


def table(results: list[Outcome]) -> str:
    """Format a Markdown table with a row per kind and a column per answer."""
    answers = sorted({outcome.answer for outcome in results})
    rows = [("kind", "files", *answers, "max CPU s", "max MiB")]
    kinds = list(dict.fromkeys(outcome.file.kind for outcome in results))
    for kind in [*kinds, "all"]:
        of_kind = [outcome for outcome in results if kind in (outcome.file.kind, "all")]
        count = Counter(outcome.answer for outcome in of_kind)
        slowest, largest = (max(of_kind, key=lambda o, by=by: getattr(o, by)) for by in ("seconds", "peak_mib"))
        figures = (f"{slowest.seconds:.2f}", f"{largest.peak_mib:.0f}")
        rows.append((kind, str(len(of_kind)), *(str(count[answer]) for answer in answers), *figures))
    rows.insert(1, ("---",) * len(rows[0]))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main(arguments: list[str]) -> None:
    """Process every file, or write them all."""
    if arguments[:1] == ["--write"]:
        folder = Path(arguments[1])
        folder.mkdir(parents=True, exist_ok=True)
        for number, file in enumerate(corpus()):
            (folder / f"{number:04} {file.kind} {file.name.replace('/', ' ')}").write_bytes(file.data)
        return
    faulthandler.enable()

    def announce(file: HostileFile) -> None:
        # Printed before the file is read, so that it names the file that caused a crash.
        print(f"{file.kind}: {file.name}", file=sys.stderr, flush=True)

    results = list(outcomes(corpus(), announce))
    print(table(results))
    for field, unit in (("seconds", "s"), ("peak_mib", "MiB")):
        worst = max(results, key=lambda outcome, field=field: getattr(outcome, field))
        print(f"max {field}: {worst.file.kind}, {worst.file.name}: {getattr(worst, field):.2f} {unit}")
    over_limit = [o for o in results if o.seconds > MAX_SECONDS or o.peak_mib > MAX_MIB]
    for o in over_limit:
        print(f"over the limit: {o.file.kind}, {o.file.name}: {o.seconds:.1f} s, {o.peak_mib:.0f} MiB")
    sys.exit(1 if over_limit else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
