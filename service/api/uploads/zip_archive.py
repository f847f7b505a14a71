"""The photos in a ZIP archive that somebody else made: nothing in it is believed before it is checked."""

import io
import zipfile
import zlib

from service.api.uploads.body import too_large
from service.errors import BrokenUpload, TooManyPhotos, UnreadablePhoto, UnsupportedPhoto

DIRECTORY_BYTES = 1024 * 1024
"""Largest table of contents: each entry costs 46 bytes or more there, and twenty times that once it is read."""

END_SIGNATURE, END_BYTES = b"PK\x05\x06", 22
ZIP64_SIGNATURE, ZIP64_BYTES = b"PK\x06\x07", 20
MAX_COMMENT_BYTES = 65_535

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Compressions that are read; the others may take a lot of memory, and nobody packs photos with them."""

ENCRYPTED = 0x1


class ZipArchive:
    """A ZIP archive in memory; its photos are unpacked one by one, never to disk."""

    def __init__(self, data: bytes, *, max_photos: int, max_bytes: int) -> None:
        """Read the table of contents; folders and hidden files are no photos.

        Raises:
            BrokenUpload: it is no ZIP archive, or a broken one, or one in the 64-bit format.
            TooManyPhotos: it has more than ``max_photos``.
            UploadTooLarge: unpacked it would have more than ``max_bytes``.
        """
        _check_directory(data)
        try:
            self._archive = zipfile.ZipFile(io.BytesIO(data))
        except Exception as error:  # hostile bytes decide what is raised
            raise BrokenUpload(f"the ZIP archive cannot be read: {error}") from None
        self._entries = [entry for entry in self._archive.infolist() if not _is_hidden(entry)]
        if len(self._entries) > max_photos:
            raise TooManyPhotos(
                f"the ZIP archive has {len(self._entries)} files; the limit is {max_photos} "
                "(TANDEM_MAX_BATCH_PHOTOS)"
            )
        total = sum(entry.file_size for entry in self._entries)
        if total > max_bytes:
            raise too_large(total, max_bytes, what="unpacked batch", setting="TANDEM_MAX_BATCH_BYTES")

    @property
    def names(self) -> list[str]:
        """Each photo's name with its folders; only ever answered, never used as a path."""
        return [entry.filename for entry in self._entries]

    def unpacked_bytes(self, index: int) -> int:
        """How many bytes the photo has when it is unpacked; no more are given, whatever is compressed."""
        return self._entries[index].file_size

    def read(self, index: int, *, max_bytes: int) -> bytes:
        """Unpack one photo; takes long enough to be done in a thread.

        Raises:
            UploadTooLarge: it has more than ``max_bytes``.
            UnsupportedPhoto: it is encrypted, or compressed as nobody does.
            UnreadablePhoto: the archive is broken here.
        """
        entry = self._entries[index]
        if entry.flag_bits & ENCRYPTED:
            raise UnsupportedPhoto("the file is encrypted in the ZIP archive")
        if entry.compress_type not in METHODS:
            raise UnsupportedPhoto(f"the file is compressed by method {entry.compress_type}; only deflate is read")
        if entry.file_size > max_bytes:
            raise too_large(entry.file_size, max_bytes)
        try:
            with self._archive.open(entry) as file:
                # No more than the stated size is given, whatever is compressed; then the checksum differs.
                return file.read(max_bytes + 1)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError) as error:
            raise UnreadablePhoto(f"the file cannot be unpacked: {error}") from None


def _is_hidden(entry: zipfile.ZipInfo) -> bool:
    """Folders, and what systems leave in archives unasked, such as ``.DS_Store`` and ``__MACOSX``."""
    parts = entry.filename.split("/")
    return entry.is_dir() or parts[-1].startswith(".") or "__MACOSX" in parts


def _check_directory(data: bytes) -> None:
    """Refuse a table of contents that would fill the memory, before Python's zipfile reads it whole."""
    tail = data[-(END_BYTES + MAX_COMMENT_BYTES) :]
    # As zipfile looks for it: a record without a comment first, else the last signature.
    bare = tail[-END_BYTES:]
    if bare.startswith(END_SIGNATURE) and bare.endswith(b"\0\0"):
        at = len(tail) - END_BYTES
    else:
        at = tail.rfind(END_SIGNATURE)
    if at < 0:
        raise BrokenUpload("the body is no ZIP archive, or is cut off")
    if ZIP64_SIGNATURE in tail[max(0, at - ZIP64_BYTES) : at]:
        raise BrokenUpload("ZIP archives in the 64-bit format are not read; a batch is far smaller")
    size = int.from_bytes(tail[at + 12 : at + 16], "little")
    if size > DIRECTORY_BYTES:
        raise BrokenUpload(
            f"the ZIP archive's table of contents has {size:,} bytes; the limit is {DIRECTORY_BYTES:,}"
        )
