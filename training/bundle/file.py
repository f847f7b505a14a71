"""The file of a bundle: a Python program in a ZIP archive, which holds the code and the data of a run.

``python FILE`` runs it, and so does ``training run-bundle``.
"""

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.bundle.pixels import Images, pack_images, unpack_images

FORMAT = "tandem training bundle 1"
FACTS, ARRAYS, IMAGES = "bundle.json", "arrays.npz", "images"
MAIN = "import sys\n\nfrom training.bundle.command import main\n\nsys.exit(main(sys.argv[1:], sys.argv[0]))\n"


def write_bundle(
    file: Path,
    facts: Mapping[str, Any],
    images: Mapping[str, tuple[Images, int]],
    arrays: Mapping[str, NDArray[Any]],
    *,
    max_mib: float,
) -> None:
    """Write a bundle.

    Args:
        file: File to write.
        facts: What else the run needs to know, as JSON; paths become strings.
        images: Images by name, with the largest change of a gray value.
        arrays: Other arrays by name.
        max_mib: Largest size of the file in MiB.

    Raises:
        ValueError: The file would be larger.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f"{file.name}.unfinished")
    package = Path(__file__).parents[1]
    sizes: dict[str, int] = {}
    with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__main__.py", MAIN)
        for source in sorted(package.rglob("*.py")):
            archive.write(source, source.relative_to(package.parent))
        layout = {name: {"shape": each.shape, "loss": loss} for name, (each, loss) in images.items()}
        archive.writestr(FACTS, json.dumps({"format": FORMAT, "images": layout, **facts}, default=str))
        for name, (each, loss) in images.items():
            packed = pack_images(each, loss)
            sizes[name] = len(packed)
            archive.writestr(f"{IMAGES}/{name}", packed, zipfile.ZIP_STORED)
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        archive.writestr(ARRAYS, buffer.getvalue())
        sizes["other arrays"] = archive.getinfo(ARRAYS).compress_size
    size = unfinished.stat().st_size / 2**20
    shown = ", ".join(f"{name} {count / 2**20:.1f}" for name, count in sizes.items())
    if size > max_mib:
        unfinished.unlink()
        raise ValueError(
            f"the bundle has {size:.1f} MiB ({shown}); the limit is {max_mib:g} (max_mib). A larger loss or a "
            "smaller teacher_size or margin makes it smaller"
        )
    unfinished.replace(file)
    print(f"{file} has {size:.1f} MiB ({shown})")


def read_bundle(file: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read the facts and all arrays of a bundle.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is not a bundle, or it is damaged.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            facts = json.loads(archive.read(FACTS)) if FACTS in archive.namelist() else {}
            if facts.get("format") != FORMAT:
                raise ValueError(f"{file} is no bundle of this version; make one with `training bundle`")
            with np.load(io.BytesIO(archive.read(ARRAYS)), allow_pickle=False) as known:
                arrays = {name: known[name] for name in known.files}
            for name, layout in facts["images"].items():
                packed = archive.read(f"{IMAGES}/{name}")
                arrays[name] = unpack_images(packed, tuple(layout["shape"]), layout["loss"])
    except zipfile.BadZipFile as error:
        raise ValueError(f"{file} is no bundle: {error}") from error
    return facts, arrays
