"""Restores random states, parameters, buffers and attributes after trial runs."""

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

__all__ = ["isolated", "own_attributes", "repeatable", "seeded", "unchanged"]

_OF_MODULES = frozenset(vars(nn.Module()))


@contextmanager
def isolated(device: torch.device, *modules: nn.Module) -> Iterator[None]:
    """Restores the random states of Python, NumPy, the CPU and a device, and the state of modules.

    A trial run of a pair in training mode would otherwise count in batch normalisation, set up what
    depends on the first images, and move the random numbers of the run.

    Args:
        device: The device in use.
        modules: Whose parameters and buffers are restored. Meanwhile their attributes are copies,
            as deep as they can be copied.
    """
    parts = list({id(part): part for module in modules for part in module.modules()}.values())
    attributes = [(part, own_attributes(part)) for part in parts]
    # Copies refer to the same modules and parameters as the originals.
    shared = {id(thing): thing for part in parts for thing in (part, *_tensors(part))}
    for part, values in attributes:
        vars(part).update({name: _copied(value, shared) for name, value in values.items()})
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []), unchanged(*parts):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
            for part, values in attributes:
                for name in own_attributes(part).keys() - values.keys():
                    del vars(part)[name]
                vars(part).update(values)


@contextmanager
def unchanged(*modules: nn.Module) -> Iterator[None]:
    """Restores the parameters and buffers of modules, without those of their parts, in place."""
    tensors = [
        (table, name, tensor, tensor.detach().clone())
        for module in modules
        for table in (module._parameters, module._buffers)
        for name, tensor in table.items()
        if tensor is not None and not is_lazy(tensor)
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for table, name, tensor, before in tensors:
                table[name] = tensor  # type: ignore[assignment]
                if not torch.equal(tensor, before):  # autograd may still need it as it is
                    tensor.copy_(before)


def _tensors(module: nn.Module) -> list[Tensor]:
    found = (*module._parameters.values(), *module._buffers.values())
    return [tensor for tensor in found if tensor is not None]


def own_attributes(module: nn.Module) -> dict[str, Any]:
    """The attributes of a module that are neither torch's nor Pyro's, nor in its tables."""
    return {
        name: value
        for name, value in vars(module).items()
        if name not in _OF_MODULES and not name.startswith("_pyro")
    }


def _copied(value: Any, shared: dict[int, Any]) -> Any:
    if callable(value) or isinstance(value, RemovableHandle):  # whose copy removes nothing
        return value
    try:
        return copy.deepcopy(value, shared)
    except Exception:  # a lock, an open file, a tensor with a history in autograd
        return copy.copy(value) if isinstance(value, list | dict | set) else value


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Random numbers from a seed on a device; restores the generators."""
    with isolated(device):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def repeatable(device: torch.device) -> Callable[[], AbstractContextManager[None]]:
    """A context that repeats the random numbers that follow this call, and restores the generators.

    Args:
        device: Where they are drawn.
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
