"""Where a run computes, and the one seed that everything random follows from."""

from numbers import Integral
from typing import Literal

import pyro
import torch

from ppl_vae.errors import InputError

__all__ = ["DeviceChoice", "check_seed", "choose_device", "seed_everything"]

DeviceChoice = Literal["auto", "cpu", "cuda"]


def choose_device(choice: str | torch.device) -> torch.device:
    """The device that a choice means: `auto` is CUDA where there is one, else the CPU.

    Raises:
        InputError: If CUDA is asked for and there is none, or the choice is unknown.
    """
    choice = str(choice)
    if choice not in ("auto", "cpu", "cuda"):
        raise InputError(f"--device: expected auto, cpu or cuda; got {choice!r}")
    if choice == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: this machine has no usable CUDA device; use --device cpu")
    if choice == "auto":
        choice = "cuda" if torch.cuda.is_available() else "cpu"
    # cuDNN would convolve float32 with ten bits of mantissa.
    torch.backends.cudnn.allow_tf32 = False
    return torch.device(choice)


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
