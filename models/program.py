"""What models and guides have in common: both are Pyro programs with neural modules."""

from abc import ABCMeta
from typing import Any
from weakref import ref

from pyro.nn import PyroModule

from models.spec import Spec

__all__ = ["Program"]


class _AbstractPyroModule(type(PyroModule), ABCMeta):  # type: ignore[misc]
    """Lets a PyroModule, which has a metaclass of its own, have abstract methods."""


class Program(PyroModule, metaclass=_AbstractPyroModule):  # type: ignore[metaclass]
    """A Pyro program over a plate of data, with its parameters in modules.

    Args:
        spec: What it is built for.
    """

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # `pyro.infer.SVI` asks each parameter site for its unconstrained value. Pyro attaches one
        # to every PyroParam, but with module-local parameters it leaves out plain nn.Parameters.
        for parameter in self.parameters():
            parameter.unconstrained = ref(parameter)  # type: ignore[attr-defined]
        return super().__call__(*args, **kwargs)
