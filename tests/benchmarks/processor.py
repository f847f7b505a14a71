"""Name the kind of a processor by the instructions that decide how fast networks run on it."""

import re

KINDS = (
    ("bfloat16", {"avx512_bf16", "amx_bf16", "bf16"}),
    ("AVX512", {"avx512f"}),
    ("AVX2", {"avx2"}),
    ("NEON", {"asimd"}),
)
"""From the newest to the oldest, with Linux's names of instructions, any of which proves the kind."""


def processor_kind(cpuinfo: str) -> str:
    """Return the kinds that a processor has, newest first, or "other": for example "bfloat16, AVX512, AVX2".

    Args:
        cpuinfo: The text of /proc/cpuinfo.
    """
    found = re.search(r"^(?:flags|Features)\s*: (.*)$", cpuinfo, re.MULTILINE)
    flags = set(found[1].split()) if found else set()
    return ", ".join(name for name, proofs in KINDS if flags & proofs) or "other"
