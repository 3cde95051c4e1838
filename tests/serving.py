"""Trainings in forks of a process that has imported everything, one or several together."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ppl_vae.runs.checkpoints import read_checkpoint

__all__ = ["Processes", "serving", "steps_of", "wait_for_steps"]

# Forks into the processes of a run as torchrun starts them.
SERVER = """
import json, os, signal, sys, traceback
import matplotlib, PIL, sklearn.datasets, torch.utils.tensorboard, torch, torch.distributed
import ppl_vae.fit, ppl_vae.pictures.plots

torch.set_num_threads(1)
for line in sys.stdin:
    size, logs, program, pictures = json.loads(line)
    for log in os.listdir(logs):
        os.unlink(f"{logs}/{log}")
    # As under torchrun, a process apart keeps what the others meet at. It has threads, and one that
    # forks must not.
    reader, writer = os.pipe()
    keeper = os.fork()
    if not keeper:
        store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        os.write(writer, str(store.port).encode())
        signal.pause()
    port = os.read(reader, 9).decode()
    os.close(reader)
    os.close(writer)
    children = []
    for rank in range(size):
        child = os.fork()
        if child:
            children.append(child)
            continue
        sys.stdin.close()
        for descriptor, kind in ((1, "out"), (2, "err")):
            name = f"{logs}/{rank}.{kind}"
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        if size > 1:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
            os.environ |= {"LOCAL_WORLD_SIZE": str(size), "MASTER_PORT": port}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_USE_AGENT_STORE": "True"}
        if not pictures:
            ppl_vae.fit.draw_pictures = lambda run, _: (run.path / "pictures").mkdir(exist_ok=True)
        code = 99
        try:
            exec(program) if isinstance(program, str) else ppl_vae.fit.main(program)
            code = 0
        except SystemExit as end:
            code = end.code
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    print(json.dumps(children), flush=True)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    os.kill(keeper, signal.SIGKILL)
    os.waitpid(keeper, 0)
    print(json.dumps(codes), flush=True)
"""


class Processes:
    """Runs a program, or `python -m ppl_vae.fit ARGUMENTS`, in several processes together."""

    def __init__(self, server: subprocess.Popen, logs: Path) -> None:
        self.server = server
        self.logs = logs

    def start(self, size: int, program: str | list[str], pictures: bool = False) -> list[int]:
        """Starts them and gives their process ids; pictures take longer than a small training."""
        assert self.server.stdin
        assert self.server.stdout
        self.server.stdin.write(json.dumps([size, str(self.logs), program, pictures]) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def end(self) -> list[int]:
        """Waits for all of them and gives their exit codes."""
        assert self.server.stdout
        return json.loads(self.server.stdout.readline())

    def run(self, size: int, program: str | list[str], pictures: bool = False) -> list[int]:
        self.start(size, program, pictures)
        return self.end()

    def said(self, kind: str = "err") -> str:
        return "".join(log.read_text() for log in sorted(self.logs.glob(f"*.{kind}")))


def wait_for_steps(run: Path) -> None:
    """Until a run that saves often has begun to train."""
    until = time.monotonic() + 120
    while not run.exists() or steps_of(run) == 0:
        assert time.monotonic() < until
        time.sleep(0.02)


def steps_of(run: Path) -> int:
    return read_checkpoint(run / "checkpoint.safetensors")[1]["steps"]


@contextmanager
def serving(folder: Path) -> Iterator[Processes]:
    """The server, with its logs in a folder, until the block ends."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        (folder / "logs").mkdir()
        yield Processes(server, folder / "logs")
        assert server.stdin
        server.stdin.close()
