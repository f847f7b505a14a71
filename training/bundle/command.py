"""The command line of ``training run-bundle``, which needs no library beyond those that training needs."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

RUN_BUNDLE = "Train everything in a bundle, on a GPU if there is one."


def main(arguments: Sequence[str], bundle: str | None = None) -> int:
    """Run a bundle and return the exit status: 1 if its input is invalid.

    Args:
        arguments: Options.
        bundle: The bundle, if it is the program itself.
    """
    parser = argparse.ArgumentParser(
        prog=bundle or "training run-bundle",
        description=f"{RUN_BUNDLE} It needs torch, Lightning and numpy only.",
    )
    if not bundle:
        parser.add_argument("--bundle", type=Path, required=True, help="File of `training bundle`.")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="Folder for the weights, the log and the results; must hold no run.",
    )
    parser.add_argument(
        "--time_factor", type=float, default=1.0, help="Multiply the seconds of each phase by this."
    )
    parser.add_argument("--steps", type=int, help="Steps of each phase instead of its seconds, to try a bundle.")
    parser.add_argument("--limit", type=int, help="Use this many images of each set, to try a bundle.")
    options = parser.parse_args(arguments)
    from training.bundle.run import run_bundle  # noqa: PLC0415 - takes seconds, which --help need not wait for

    try:
        run_bundle(
            Path(bundle) if bundle else options.bundle,
            options.out,
            time_factor=options.time_factor,
            steps=options.steps,
            limit=options.limit,
        )
    except (ValueError, FileNotFoundError) as error:
        print(f"training run-bundle: {error}", file=sys.stderr)
        return 1
    return 0
