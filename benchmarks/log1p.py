"""What importing `models` does to log1p, expm1 and a Bernoulli's log p(x|z) on a CPU.

    python benchmarks/log1p.py

See `models/fast_log1p.py`. A process in which the constants were read once stays fast, so each
round is a process of its own that times each function before and after. Medians are quoted. The
table goes to benchmarks/log1p.md.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from jsonargparse import auto_cli
from tables import table_row, write

TABLE = Path(__file__).with_suffix(".md")

ROUND = """
import json, time
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

torch.set_num_threads(1)
x = torch.rand(100, 784)
logits, pixels = torch.randn(2, 100, 784)
functions = {
    "log1p": lambda: x.log1p(),
    "expm1": lambda: x.expm1(),
    "log p(x|z) of a Bernoulli": lambda: binary_cross_entropy_with_logits(
        logits, pixels.sigmoid(), reduction="none"
    ).sum(1),
}

def nanoseconds(function):
    taken = []
    for _ in range(5):
        function()
        began = time.perf_counter()
        for _ in range(50):
            function()
        taken.append((time.perf_counter() - began) / 50 / x.numel() * 1e9)
    return min(taken)

before = {name: nanoseconds(function) for name, function in functions.items()}
import models
after = {name: nanoseconds(function) for name, function in functions.items()}
print(json.dumps([before, after]))
"""


def main(rounds: int = 10) -> None:
    """Times the functions in fresh processes and writes the table.

    Args:
        rounds: How many processes.
    """
    results = [
        json.loads(subprocess.run([sys.executable, "-c", ROUND], stdout=-1, check=True).stdout)
        for _ in range(rounds)
    ]
    lines = [
        "# The constants of log1p",
        "",
        f"Made by `python benchmarks/log1p.py`: torch {torch.__version__}, capability",
        f"{torch.backends.cpu.get_cpu_capability()}, one thread, 78,400 numbers; nanoseconds each,",
        f"before and after `import models`, medians of {rounds} processes.",
        "",
        "| | before | after | ratio |",
        "|---|---|---|---|",
    ]
    for name in results[0][0]:
        before, after = (statistics.median(r[side][name] for r in results) for side in (0, 1))
        lines.append(table_row(name, f"{before:.2f}", f"{after:.2f}", f"{before / after:.1f}"))
    write(TABLE, lines)
    print("\n".join(lines))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
