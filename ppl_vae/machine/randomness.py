"""Work that leaves no trace: generators and buffers are afterwards as they were."""

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import torch
from torch import nn

__all__ = ["isolated", "repeatable", "seeded"]


@contextmanager
def isolated(device: torch.device, *modules: nn.Module) -> Iterator[None]:
    """Restores the random states of Python, NumPy, the CPU and a device, and the state of modules.

    A trial run of a pair in training mode would otherwise count in batch normalisation, or be the
    first one, which sets things up, and move the random numbers of the run.

    Args:
        device: The device in use.
        modules: Whose buffers are kept, and the numbers and words in their attributes.
    """
    buffers = [
        (part, name, buffer, buffer.clone())
        for module in modules
        for part in module.modules()
        for name, buffer in part.named_buffers(recurse=False)
    ]
    plain = [(part, _plain(part)) for module in modules for part in module.modules()]
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
            for part, attributes in plain:
                for name in _plain(part).keys() - attributes.keys():
                    del vars(part)[name]
                vars(part).update(attributes)
            with torch.no_grad():
                for part, name, buffer, before in buffers:
                    setattr(part, name, buffer.copy_(before))


def _plain(module: nn.Module) -> dict[str, bool | int | float | str]:
    """Numbers and words in attributes: counts, flags, and what has been set up."""
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, bool | int | float | str)
        and name != "training"
        and not name.startswith("_")
    }


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Random numbers from a seed on a device; afterwards the generators are as they were."""
    with isolated(device):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def repeatable(device: torch.device) -> Callable[[], AbstractContextManager[None]]:
    """A context in which the random numbers that follow this call come once more.

    Args:
        device: Where they are drawn; afterwards the generators are as they were.
    """
    cpu = torch.get_rng_state()
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    @contextmanager
    def again() -> Iterator[None]:
        with isolated(device):
            torch.set_rng_state(cpu)
            if cuda is not None:
                torch.cuda.set_rng_state(cuda, device)
            yield

    return again
