"""What can go wrong with installing or starting the local Triton; the message says what to do about it."""


class LocalTritonError(Exception):
    """The local Triton cannot be had or does not run."""


class UnsupportedPlatform(LocalTritonError):
    """The wheel's Triton does not run on this operating system, processor, C library or Python."""


class LibpythonMissing(LocalTritonError):
    """This Python is linked statically, and Triton's python backend needs the shared library."""


class DownloadFailed(LocalTritonError):
    """pip could not fetch the wheel."""


class WrongWheel(LocalTritonError):
    """The wheel's bytes are not the ones that were pinned, or it lacks a file that it must hold."""


class NotInstalled(LocalTritonError):
    """Nothing usable lies in the folder that the local Triton is started from."""


class StartFailed(LocalTritonError):
    """The server exited or did not answer in time; the message ends with the last lines of its log."""
