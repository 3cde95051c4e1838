"""Where a run computes, and the one seed that everything random follows from."""

import platform
import re
from numbers import Integral
from pathlib import Path

import pyro
import torch

from ppl_vae.errors import InputError

__all__ = [
    "DeviceChoice",
    "check_device",
    "check_seed",
    "choose_device",
    "machine_of",
    "seed_everything",
]

DeviceChoice = str  # auto, cpu, cuda or cuda:N


def check_device(choice: str) -> None:
    """Raises an InputError for a choice that is none of auto, cpu, cuda and cuda:N."""
    if not isinstance(choice, str) or not re.fullmatch(r"auto|cpu|cuda(:\d+)?", choice):
        raise InputError(f"--device: expected auto, cpu, cuda or cuda:N; got {choice!r}")


def choose_device(choice: str | torch.device) -> torch.device:
    """The device that a choice means: `auto` is CUDA where there is one, else the CPU.

    `cuda:N` is made the current device of the process, whose streams and generators torch takes.

    Raises:
        InputError: If the choice is unknown, or the machine has no such device.
    """
    choice = str(choice)
    check_device(choice)
    if choice == "auto":
        choice = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = choice.partition(":")
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"--device {choice}: this machine has no usable CUDA device; use --device cpu"
        )
    if index:
        count = torch.cuda.device_count()
        if int(index) >= count:
            raise InputError(
                f"--device {choice}: expected at most cuda:{count - 1}, because this machine has "
                f"{count} CUDA device{'s' * (count != 1)}"
            )
        torch.cuda.set_device(int(index))
    # cuDNN would convolve float32 with ten bits of mantissa.
    torch.backends.cudnn.allow_tf32 = False
    return torch.device(choice)


def machine_of(device: torch.device) -> str:
    """The card, or the processor with its vector instructions and the threads that compute."""
    if device.type != "cpu":
        return torch.cuda.get_device_name(device)
    facts = Path("/proc/cpuinfo")  # of Linux
    name = re.search(r"model name\s*: (.*)", facts.read_text()) if facts.exists() else None
    processor = name[1] if name else platform.processor()
    threads = torch.get_num_threads()
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{processor} ({capability}), {threads} thread{'s' * (threads > 1)}"


def seed_everything(seed: int) -> None:
    """Seeds torch's, Pyro's, NumPy's and Python's generators.

    Raises:
        InputError: If the seed is not in 0, ..., 2^32 - 1, the range that all of them take.
    """
    check_seed(seed)
    pyro.set_rng_seed(seed)
    # cuDNN would choose convolutions by their speed today, and may sum in any order.
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def check_seed(seed: int) -> None:
    """Raises an InputError for a seed that not every generator takes."""
    whole = isinstance(seed, Integral) and not isinstance(seed, bool)
    if not (whole and 0 <= seed < 2**32):
        kind = "" if whole else ", a whole number"
        raise InputError(f"--seed: expected 0 <= seed < 2^32{kind}; got {seed!r}")
