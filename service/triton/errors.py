"""Errors of installing and starting the local Triton. Each message says how to fix the problem."""


class LocalTritonError(Exception):
    """The local Triton cannot be installed or started."""


class UnsupportedPlatform(LocalTritonError):
    """The pinned Triton does not support this operating system, CPU architecture, C library or Python."""


class LibpythonMissing(LocalTritonError):
    """This Python has no shared library (libpython), which Triton's Python backend links against."""


class DownloadFailed(LocalTritonError):
    """pip could not download the wheel."""


class WrongWheel(LocalTritonError):
    """The wheel does not have the pinned checksum, or a file is missing from it."""


class NotInstalled(LocalTritonError):
    """There is no complete installation in the folder that the local Triton is started from."""


class StartFailed(LocalTritonError):
    """The server exited or did not answer in time. The message ends with the last lines of its log."""
