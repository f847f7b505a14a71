"""The cost of a TIFF is known from its first directory."""

import struct

import pytest
from photos import astronaut, encoded

from service.vision.bomb_checks import DecompressionBomb
from service.vision.tiff_structure import MAX_FIELDS, MAX_STRIPS, check_fields

FIELDS = {256: (33,), 257: (9,), 258: (8,), 259: (1,), 262: (1,), 273: (8,), 277: (1,), 278: (9,), 279: (297,)}
"""A gray TIFF of 33 x 9 pixels in one strip."""


def tiff(fields: dict[int, tuple[int, ...]]) -> bytes:
    content, values, entries = bytes(300), b"", b""
    at = 8 + len(content) + 2 + 12 * len(fields) + 4
    for tag, numbers in sorted(fields.items()):
        place = numbers[0] if len(numbers) == 1 else at + len(values)
        entries += struct.pack("<HHLL", tag, 4, len(numbers), place)
        if len(numbers) > 1:
            values += struct.pack(f"<{len(numbers)}L", *numbers)
    return (
        b"II*\0" + struct.pack("<L", 308) + content + struct.pack("<H", len(fields)) + entries + bytes(4) + values
    )


@pytest.mark.parametrize("options", [{}, {"big_tiff": True}, {"compression": "jpeg"}, {"compression": "tiff_lzw"}])
def test_real_files_pass(options: dict[str, object]) -> None:
    check_fields(encoded(astronaut(), "TIFF", **options))
    check_fields(tiff(FIELDS))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({1000 + number: (0,) for number in range(MAX_FIELDS)}, "1,009 fields; the limit is 1,000"),
        ({273: (8,) * (MAX_STRIPS + 1), 278: (1,)}, "100,001 strips; the limit is 100,000"),
        (
            {273: (8,) * 9, 278: (1,), 279: (2**20,) * 9},
            "strips of the TIFF state 9,437,184 bytes, but the file has",
        ),
        ({322: (2**16,), 323: (2**16,), 324: (8,), 325: (300,)}, "a tile of the TIFF has 4,294,967,296 pixels"),
    ],
)
def test_what_would_take_long_or_much_is_a_bomb(fields: dict[int, tuple[int, ...]], named: str) -> None:
    with pytest.raises(DecompressionBomb, match=named):
        check_fields(tiff(FIELDS | fields))


def test_a_field_larger_than_the_file_is_a_bomb() -> None:
    file = tiff(FIELDS).replace(struct.pack("<HHLL", 273, 4, 1, 8), struct.pack("<HHLL", 273, 4, 2**30, 8))
    with pytest.raises(DecompressionBomb, match="4,294,967,296 bytes, more than the file"):
        check_fields(file)


def test_scans_of_jpegs_inside_are_counted() -> None:
    file = encoded(astronaut(), "TIFF", compression="jpeg", strip_size=2**20)
    check_fields(file)
    with pytest.raises(DecompressionBomb, match="far more scans"):
        check_fields(file + b"\xff\xda" * 50)
