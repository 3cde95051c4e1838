"""How large a pair is, before it is built."""

import sys

import torch
from torch import nn

from models import Spec
from ppl_vae.errors import InputError
from ppl_vae.machine.memory import free_memory
from ppl_vae.machine.randomness import isolated
from ppl_vae.pairs.building import Pieces, build_pair

__all__ = ["check_size"]

_COPIES = 4  # of the parameters: themselves, their gradients and the two averages of Adam
_LARGE = 2**30  # bytes, from which on the size is said


def check_size(spec: Spec, pieces: Pieces) -> None:
    """Says how much memory the training of a large pair takes; refuses one that it has no room for.

    A single operation on very large tensors cannot be interrupted, so that this comes first. The
    pair is built without memory for its parameters, on torch's device `meta`; of one that cannot
    be built so, nothing is said.

    Raises:
        InputError: If the parameters, their gradients and Adam's averages do not fit.
    """
    try:
        with isolated(torch.device("cpu")), torch.device("meta"):
            pair = nn.ModuleList(build_pair(spec, pieces))
    except (NotImplementedError, RuntimeError):  # it looks at a tensor, and here it has no values
        return
    count = sum(parameter.numel() for parameter in pair.parameters())
    needed = _COPIES * sum(parameter.nbytes for parameter in pair.parameters())
    free = free_memory()
    size = (
        f"the pair has {count:,} parameters, which take {_gib(needed)} GiB with their gradients "
        "and Adam's averages"
    )
    if needed > free:
        raise InputError(
            f"{size}; {_gib(free)} GiB are free; choose a smaller --network or --latent_dim, or "
            "smaller images"
        )
    if needed >= _LARGE:
        print(f"{size}; Ctrl-C waits for the operation at hand", file=sys.stderr, flush=True)


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f}"
