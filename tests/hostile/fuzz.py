"""Coverage-guided fuzzing of decode, find, align and crop with Atheris (libFuzzer).

    python -m tests.hostile.fuzz FOLDER -max_total_time=3600 -timeout=20 -rss_limit_mb=2048

libFuzzer's own options; FOLDER keeps the files that reach new code, and begins with the seeds. It sees the
branches of Pillow's and our Python; the C decoders get its files without telling it what they do with them.
"""

import sys
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["PIL", "pillow_heif", "service.vision"]):
    from .seeds import seeds
    from .trial import reader


def main() -> None:
    """Fuzz until libFuzzer's options say stop; a crash, a hang or an untyped error ends it with its file."""
    warnings.simplefilter("ignore")
    folder = Path(next(argument for argument in sys.argv[1:] if not argument.startswith("-")))
    folder.mkdir(parents=True, exist_ok=True)
    for name, file in seeds().items():
        (folder / name.replace(" ", "-")).write_bytes(file)
    atheris.Setup(sys.argv, reader())
    atheris.Fuzz()


if __name__ == "__main__":
    main()
