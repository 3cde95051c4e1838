"""What training and evaluation take at most, on real data; each in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

MIB = 2**20


def _peak(*arguments: str) -> int:
    """Peak resident bytes of `python -m ...`, told by the process itself at its end."""
    module, *rest = arguments
    program = (
        "import atexit, re, runpy, sys\n"
        # The peak that getrusage tells begins with that of the process which started this one.
        "status = lambda: open('/proc/self/status').read()\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+) kB', status())[1]) * 1024\n"
        "atexit.register(lambda: print('PEAK', peak()))\n"
        f"sys.argv = {[module, *rest]!r}\n"
        f"runpy.run_module({module!r}, run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return int(done.stdout.rsplit("PEAK", 1)[1])


@pytest.mark.slow
def test_mnist_fits_into_the_promised_memory(data_root: Path, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    data = ["--data", "MNIST", "--data.root", str(data_root)]
    training = _peak("ppl_vae.fit", *data, "--latent_dim", "20", "--epochs", "2", "--run", run)
    assert 100 * MIB < training < 1536 * MIB
    # Ten images in one process, and a hundred: what grows would show in the difference.
    few, many = (
        _peak("ppl_vae.evaluate", run, "--particles", "5000", "--data_points", count)
        for count in ("10", "100")
    )
    assert many < 2048 * MIB
    assert many - few < 64 * MIB
