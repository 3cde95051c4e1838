"""Adam by torch's fused kernel, called directly, or by torch's own function where it is missing.

`torch.optim.Adam.step` sorts and checks its tensors in Python in every step, which for the network
of Kingma and Welling (2014) takes as long as the kernel itself. And its kernel reads a gradient as
if it lay in memory like its parameter, which `torch.autograd.grad` does not promise.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from ppl_vae.errors import InputError

__all__ = ["Adam"]

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8  # those of the paper


class _State(NamedTuple):
    step: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor


class _Group(NamedTuple):
    """Parameters of one type that move together, and their states: the arguments of a kernel."""

    parameters: dict[str, nn.Parameter]
    states: list[_State]


class Adam:
    """Steps of rate * m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + e) against the gradient g, where

    m <- b1 m + (1 - b1) g and v <- b2 v + (1 - b2) g^2: Kingma and Ba (2015), algorithm 1, with
    `weight_decay` times the parameter added to g.

    Args:
        parameters: The parameters to update, by name; on one device.
        weight_decay: The L2 term, at least 0.

    Raises:
        InputError: If a parameter's elements do not fill its memory.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], weight_decay: float = 0.0) -> None:
        for name, parameter in parameters.items():
            dense = torch.empty_like(parameter).stride() == parameter.stride()
            if not (dense or parameter.is_contiguous()):
                raise InputError(
                    f"expected parameters whose elements fill their memory; {name} is a view of "
                    "a part of a tensor: make it with .clone() or .contiguous()"
                )
        self._parameters = dict(parameters)
        self._weight_decay = weight_decay
        device = next(iter(parameters.values())).device
        # One tensor, so that counting is one operation however many parameters there are.
        self._counts = torch.zeros(len(parameters), device=device)
        self._states = {
            name: _State(self._counts[index], torch.zeros_like(p), torch.zeros_like(p))
            for index, (name, p) in enumerate(parameters.items())
        }
        # Nearly always the same parameters move in every step, and sorting them takes time.
        self._moving: dict[tuple[str, ...], tuple[Tensor, list[_Group]]] = {}
        # On a GPU the rate is a tensor, so that a captured step can change it.
        self._rate: float | Tensor = 0.0 if device.type == "cpu" else torch.zeros((), device=device)

    def set_rate(self, rate: float) -> None:
        """Sets the step size."""
        if isinstance(self._rate, Tensor):
            self._rate.fill_(rate)
        else:
            self._rate = rate

    @torch.no_grad()
    def update(self, gradients: Mapping[str, Tensor | None], skip: Tensor) -> None:
        """Updates once the parameters that have a gradient.

        Args:
            gradients: By the parameters' names; None for one on which the loss does not depend.
            skip: A scalar; where it is 1.0 nothing changes. It is read on the device, without
                waiting for it.
        """
        names = tuple(name for name in self._parameters if gradients[name] is not None)
        if names not in self._moving:
            self._moving[names] = self._groups(names)
        moves, groups = self._moving[names]
        fused = hasattr(torch, "_fused_adam_")  # which torch need not keep
        if fused:
            self._counts.addcmul_(moves, 1 - skip)
        for group in groups:
            parameters = list(group.parameters.values())
            found = [_laid_out_as(p, gradients[name]) for name, p in group.parameters.items()]
            steps, averages, squares = map(list, zip(*group.states, strict=True))
            options: dict[str, Any] = {
                "lr": self._rate,
                "beta1": _BETA1,
                "beta2": _BETA2,
                "eps": _EPSILON,
                "weight_decay": self._weight_decay,
                "amsgrad": False,
                "maximize": False,
            }
            lists: Any = (parameters, found, averages, squares, [], steps)
            if fused:
                torch._fused_adam_(*lists, **options, found_inf=skip)
                continue
            moved = [*parameters, *averages, *squares, *steps]
            before = [tensor.clone() for tensor in moved]
            adam(*lists, foreach=False, capturable=self._counts.is_cuda, **options)  # type: ignore[misc]
            for tensor, old in zip(moved, before, strict=True):
                tensor.copy_(torch.where(skip > 0, old, tensor))

    def _groups(self, names: tuple[str, ...]) -> tuple[Tensor, list[_Group]]:
        """1 for each parameter of these names and 0 for the others, and their groups."""
        groups: dict[torch.dtype, _Group] = {}
        for name in names:
            group = groups.setdefault(self._parameters[name].dtype, _Group({}, []))
            group.parameters[name] = self._parameters[name]
            group.states.append(self._states[name])
        moves = torch.tensor([float(name in names) for name in self._parameters])
        return moves.to(self._counts.device), list(groups.values())

    def state(self) -> dict[str, Tensor]:
        """The moments and counts as `step.NAME`, `exp_avg.NAME` and `exp_avg_sq.NAME`."""
        return {
            f"{key}.{name}": value
            for name, state in self._states.items()
            for key, value in state._asdict().items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Copies a result of `state` into the present tensors; those that it lacks become 0."""
        for name, present in self.state().items():
            if name in state:
                present.copy_(state[name])
            else:
                present.zero_()


def _laid_out_as(parameter: nn.Parameter, gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)
