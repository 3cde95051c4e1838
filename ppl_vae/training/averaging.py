"""The running mean of the parameters."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import log

import torch
from torch import Tensor, nn

__all__ = ["Average"]


class Average:
    """a_t = (1 - d) / (1 - d^t) sum_i d^(t - i) p_i over the parameters p_i after update i.

    Kingma and Ba (2015), section 7.2, the exponential mean without its initial bias.

    Args:
        parameters: The parameters, by name.
        decay: d, in (0, 1); 1 / (1 - d) is about the number of updates that count.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self._parameters = dict(parameters)
        self._decay = decay
        self._averages = {name: p.detach().clone() for name, p in parameters.items()}
        self._count = torch.zeros((), device=next(iter(parameters.values())).device)

    @torch.no_grad()
    def update(self, skip: Tensor | None = None) -> None:
        """Takes in the parameters after an update.

        Args:
            skip: A scalar; where it is 1.0 nothing changes. It is read on the device. None is as
                good as 0.0.
        """
        self._count += 1 if skip is None else 1 - skip
        part = (1 - self._decay) / -torch.expm1(self._count * log(self._decay))
        if skip is not None:
            part = torch.where(skip > 0, 0.0, part)
        for name, average in self._averages.items():
            average.lerp_(self._parameters[name], part.to(average.dtype))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Has the parameters be their averages meanwhile, once there has been an update."""
        trained = {name: p.detach().clone() for name, p in self._parameters.items()}
        self.keep()
        try:
            yield
        finally:
            _copy(trained, self._parameters)

    def keep(self) -> None:
        """Makes the parameters their averages for good."""
        if self._count > 0:
            _copy(self._averages, self._parameters)

    def state(self) -> dict[str, Tensor]:
        """The averages, the number of updates, and a copy of the parameters themselves."""
        return {
            "averaged": self._count,
            **{f"average.{name}": value for name, value in self._averages.items()},
            **{f"trained.{name}": p.detach().clone() for name, p in self._parameters.items()},
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Copies a result of `state` into the present tensors."""
        _copy(state, self.state() | {f"trained.{n}": p for n, p in self._parameters.items()})


@torch.no_grad()
def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    for name, value in target.items():
        value.copy_(source[name])
