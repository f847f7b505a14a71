"""Coverage-guided fuzzing of decode, find, align and crop with Atheris (libFuzzer).

    python -m tests.hostile.fuzz FOLDER -max_total_time=3600 -timeout=20 -rss_limit_mb=2048

The options are libFuzzer's. FOLDER starts with the seeds and collects the files that reach new code. Coverage
includes the Python code of Pillow and of this service, but not the decoders in C.
"""

import sys
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["PIL", "pillow_heif", "service.vision"]):
    from .seeds import seeds
    from .trial import make_reader


def main() -> None:
    """Fuzz until a limit in the options; a crash, a hang or an untyped error stops it and saves the file."""
    warnings.simplefilter("ignore")
    folder = Path(next(argument for argument in sys.argv[1:] if not argument.startswith("-")))
    folder.mkdir(parents=True, exist_ok=True)
    for name, file in seeds().items():
        (folder / name.replace(" ", "-")).write_bytes(file)
    atheris.Setup(sys.argv, make_reader())
    atheris.Fuzz()


if __name__ == "__main__":
    main()
