"""How much memory a pair takes, before it is built, and a step, before training."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from models import Spec
from ppl_vae.errors import InputError
from ppl_vae.machine.memory import free_memory
from ppl_vae.machine.randomness import isolated
from ppl_vae.pairs.building import Pieces, build_pair

__all__ = ["check_activations", "check_size"]

_COPIES = 4  # of the parameters: themselves, their gradients and at most two averages of gradients
_MEAN = 2  # more copies with `--average`: the mean, and while it is measured the parameters
_FEW = 2  # images on which memory is measured; some layers refuse one
_LARGE = 2**30  # bytes, from which on the size is said


def check_size(spec: Spec, pieces: Pieces, averaged: bool = False) -> None:
    """Says how much memory the training of a large pair takes; refuses one that it has no room for.

    A single operation on very large tensors cannot be interrupted, so that this comes first. The
    pair is built without memory for its parameters, on torch's device `meta`; of one that cannot
    be built so, nothing is said.

    Args:
        spec: The data's shape and domain, and D.
        pieces: Those of the pair.
        averaged: Whether the mean of the parameters over the steps is kept too.

    Raises:
        InputError: If the parameters, their gradients and averages do not fit.
    """
    try:
        with isolated(torch.device("cpu")), torch.device("meta"):
            pair = nn.ModuleList(build_pair(spec, pieces))
    except (NotImplementedError, RuntimeError):  # it looks at a tensor, and here it has no values
        return
    count = sum(parameter.numel() for parameter in pair.parameters())
    copies = _COPIES + (_MEAN if averaged else 0)
    needed = copies * sum(parameter.nbytes for parameter in pair.parameters())
    free = free_memory()
    size = (
        f"the pair has {count:,} parameters, which take {_gib(needed)} GiB with their gradients "
        "and averages"
    )
    if needed > free:
        raise InputError(
            f"{size}; {_gib(free)} GiB are free; choose a smaller --network or --latent_dim, or "
            "smaller images"
        )
    if needed >= _LARGE:
        print(f"{size}; Ctrl-C waits for the operation at hand", file=sys.stderr, flush=True)


@contextmanager
def _saved_bytes(pair: nn.Module) -> Iterator[Callable[[], int]]:
    """Gives a function to the bytes that autograd has saved meanwhile, besides the parameters."""
    own = {parameter.untyped_storage().data_ptr() for parameter in pair.parameters()}
    kept: dict[int, Tensor] = {}  # alive, so that no place in memory is counted for two

    def keep(saved: Tensor) -> Tensor:
        kept[saved.untyped_storage().data_ptr()] = saved
        return saved

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        yield lambda: sum(t.untyped_storage().nbytes() for p, t in kept.items() if p not in own)


def check_activations(pair: nn.Module, loss: Callable[[int], Tensor], images: int) -> None:
    """Says how much memory the activations of a large step take; refuses one without room for it.

    What autograd saves is a constant and a multiple of the number of images, known from two losses.

    Args:
        pair: The module whose parameters the loss is of.
        loss: The loss of so many images, at least two.
        images: Those of a step.

    Raises:
        InputError: If the activations of a step do not fit.
    """
    few, twice = _FEW, 2 * _FEW
    sizes = []
    for count in (few, twice):
        with _saved_bytes(pair) as saved:
            loss(count)
            sizes.append(saved())
    needed, free = sizes[0] + (sizes[1] - sizes[0]) * (images - few) // few, free_memory()
    size = f"a step on {images:,} images keeps {_gib(needed)} GiB for its backward pass"
    if needed > free:
        raise InputError(
            f"{size}; {_gib(free)} GiB are free; choose a smaller --batch_size or --network, or "
            "--network Cells with --network.recompute true"
        )
    if needed >= _LARGE:
        print(size, file=sys.stderr, flush=True)


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f}"
