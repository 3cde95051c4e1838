"""A process that has imported everything, and forks for each command that a test sends it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def serving(program: str, folder: Path) -> Iterator[subprocess.Popen]:
    """Runs the program in the folder, with pipes to and from it, until the block ends.

    It reads lines from its standard input and ends where that does.
    """
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        yield server
        assert server.stdin
        server.stdin.close()
