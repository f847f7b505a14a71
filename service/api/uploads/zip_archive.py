"""ZIP archives of photos. They come from callers: everything in them is checked before it is used."""

import io
import zipfile
import zlib

from service.api.uploads.body import SizeLimit
from service.errors import BrokenUpload, TooManyPhotos, UnreadablePhoto, UnsupportedPhoto

MAX_DIRECTORY_BYTES = 1024 * 1024
"""Limit on the central directory; an entry has at least 46 bytes there, and twenty times that when parsed."""

END_SIGNATURE, END_BYTES = b"PK\x05\x06", 22
ZIP64_SIGNATURE, ZIP64_BYTES = b"PK\x06\x07", 20
MAX_COMMENT_BYTES = 65_535

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Supported compression methods. The others can take a lot of memory, and are not used for photos."""

ENCRYPTED = 0x1
UTF_8_NAME = 0x800

SYSTEM_FILES = ("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r", "__macosx", "@eadir")
"""Files and folders that systems add unasked, in small letters; others start with a dot or a dollar sign."""


class ZipArchive:
    """A ZIP archive in memory. Its photos are unpacked one at a time, never to disk."""

    def __init__(self, data: bytes, *, max_photos: int, max_bytes: int) -> None:
        """Read the central directory, and skip folders and hidden files.

        Raises:
            BrokenUpload: It is not a ZIP archive, or a broken one, or in the ZIP64 format.
            TooManyPhotos: It has more than ``max_photos``.
            UploadTooLarge: Unpacked it would have more than ``max_bytes``.
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
            raise SizeLimit(max_bytes, "unpacked batch", "TANDEM_MAX_BATCH_BYTES").error(total)

    @property
    def names(self) -> list[str]:
        """Each photo's name with its folders. Only sent back to the caller, never used as a path."""
        return [_name_of(entry) for entry in self._entries]

    def unpacked_bytes(self, index: int) -> int:
        """The size that the archive states for a photo. No more is unpacked, whatever was compressed."""
        return self._entries[index].file_size

    def read(self, index: int, *, max_bytes: int) -> bytes:
        """Unpack one photo. Slow enough to be called in a thread.

        Raises:
            UploadTooLarge: It has more than ``max_bytes``.
            UnsupportedPhoto: It is encrypted, or compressed with an unsupported method.
            UnreadablePhoto: It cannot be unpacked.
        """
        entry = self._entries[index]
        if entry.flag_bits & ENCRYPTED:
            raise UnsupportedPhoto("the file is encrypted in the ZIP archive")
        if entry.compress_type not in METHODS:
            raise UnsupportedPhoto(
                f"the file is compressed with method {entry.compress_type}; only deflate (8) is supported"
            )
        if entry.file_size > max_bytes:
            raise SizeLimit(max_bytes).error(entry.file_size)
        try:
            with self._archive.open(entry) as file:
                # zipfile stops at the stated size. If more was compressed, the checksum differs.
                return file.read(max_bytes + 1)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError) as error:
            raise UnreadablePhoto(f"the file cannot be unpacked: {error}") from None


def _name_of(entry: zipfile.ZipInfo) -> str:
    """Return an entry's name. Without the UTF-8 flag it should be in code page 437, but most tools write UTF-8."""
    if not entry.flag_bits & UTF_8_NAME:
        try:
            return entry.filename.encode("cp437").decode("utf-8")
        except ValueError:
            pass
    return entry.filename


def _is_hidden(entry: zipfile.ZipInfo) -> bool:
    """Whether it is a folder, a hidden file, or one of ``SYSTEM_FILES``."""
    parts = entry.filename.replace("\\", "/").lower().split("/")
    return (
        parts[-1] == ""
        or parts[-1].startswith(".")
        or any(part in SYSTEM_FILES or part.startswith("$recycle") for part in parts)
    )


def _check_directory(data: bytes) -> None:
    """Refuse a central directory that would fill the memory, before zipfile reads all of it."""
    tail = data[-(END_BYTES + MAX_COMMENT_BYTES) :]
    # zipfile looks for a record without a comment first, then for the last signature; do the same.
    bare = tail[-END_BYTES:]
    if bare.startswith(END_SIGNATURE) and bare.endswith(b"\0\0"):
        at = len(tail) - END_BYTES
    else:
        at = tail.rfind(END_SIGNATURE)
    if at < 0:
        raise BrokenUpload("the body is not a ZIP archive, or is cut off")
    if ZIP64_SIGNATURE in tail[max(0, at - ZIP64_BYTES) : at]:
        raise BrokenUpload("the ZIP archive is in the ZIP64 format, which is not supported")
    size = int.from_bytes(tail[at + 12 : at + 16], "little")
    if size > MAX_DIRECTORY_BYTES:
        raise BrokenUpload(
            f"the ZIP archive's central directory has {size:,} bytes; the limit is {MAX_DIRECTORY_BYTES:,}"
        )
