import subprocess
import sys

SCRIPT = """
import os, pathlib
from service.server.malloc_tuning import return_large_blocks

return_large_blocks()
resident = lambda: int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
before = resident()
for _ in range(3):  # freeing a first large block raises glibc's threshold
    blocks, kept = [], []
    for _ in range(20):
        blocks.append(b"x" * 4_000_000)
        kept.append(b"x" * 5_000)
    del blocks
print(resident() - before)
"""


def test_freed_blocks_are_returned_to_the_system() -> None:
    ended = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=60)
    assert int(ended.stdout) < 8_000_000
