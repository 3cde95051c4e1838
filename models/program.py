"""The base of models and guides: Pyro programs with neural modules."""

from abc import ABCMeta
from typing import Any
from weakref import ref

import pyro
from pyro.nn import PyroModule
from torch import Tensor

from models.spec import Spec

__all__ = ["Program"]


class _AbstractPyroModule(type(PyroModule), ABCMeta):  # type: ignore[misc]
    """Lets a PyroModule, which has a metaclass of its own, have abstract methods."""


class Program(PyroModule, metaclass=_AbstractPyroModule):  # type: ignore[metaclass]
    """A Pyro program over a plate of data, with its parameters in modules.

    Pyro keeps parameters in one global store, in which two pairs in one process would share entries
    of the same name. While a program runs, and only then, its parameters are local to its modules
    (Pyro's setting `module_local_params`): for the whole process that setting would break other
    people's PyroModules and autoguides.

    Args:
        spec: The data's shape and domain, and D.
    """

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec

    def check_type(self, name: str, x: Any) -> None:
        """Raises ValueError unless something is a tensor of the type that the parameters have."""
        if not isinstance(x, Tensor):
            raise ValueError(
                f"expected {name} as a tensor; got {type(x).__name__}; torch.as_tensor makes one"
            )
        own = next((parameter.dtype for parameter in self.parameters()), x.dtype)
        if x.dtype != own:
            raise ValueError(
                f"expected {name} of {own}, as the parameters are; got {x.dtype}; convert them "
                f"with .to({own})"
            )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # A context that was made without the setting lacks this.
        vars(self._pyro_context).setdefault("param_state", {"params": {}, "constraints": {}})
        try:
            with pyro.settings.context(module_local_params=True):
                return super().__call__(*args, **kwargs)
        finally:
            # `pyro.infer.SVI` asks each parameter site for its unconstrained value. With
            # module-local parameters Pyro attaches none to plain nn.Parameters, and takes it from
            # those in the store, which may be those of a guide from outside the project.
            stored = (parameter for _, parameter in pyro.get_param_store().named_parameters())
            for parameter in (*self.parameters(), *stored):
                parameter.unconstrained = ref(parameter)  # type: ignore[attr-defined]
