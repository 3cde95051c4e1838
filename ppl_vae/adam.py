"""Adam by torch's fused kernel, called directly.

`torch.optim.Adam.step` sorts and checks its tensors in Python in every step, which for the network
of Kingma and Welling (2014) takes as long as the kernel itself. And its kernel reads a gradient as
if it lay in memory like its parameter, which `torch.autograd.grad` does not promise.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ppl_vae.errors import InputError

__all__ = ["Adam"]

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8  # those of the paper


class _State(NamedTuple):
    step: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor


class Adam:
    """Steps of rate * m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + e) against the gradient g, where

    m <- b1 m + (1 - b1) g and v <- b2 v + (1 - b2) g^2: Kingma and Ba (2015), algorithm 1, with
    `weight_decay` times the parameter added to g.

    Args:
        parameters: What is updated, by name.
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
        self._states: dict[str, _State] = {}
        device = next(iter(parameters.values())).device
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
            skip: A scalar; where it is 1.0 nothing changes. It is read on the device, so that
                nobody waits for it.
        """
        moved: dict[tuple[torch.device, torch.dtype], list[tuple[Tensor, Tensor, _State]]] = {}
        for name, parameter in self._parameters.items():
            gradient = gradients[name]
            if gradient is None:
                continue
            if name not in self._states:
                self._states[name] = _State(
                    torch.zeros((), device=parameter.device),
                    torch.zeros_like(parameter),
                    torch.zeros_like(parameter),
                )
            if gradient.stride() != parameter.stride():
                gradient = torch.empty_like(parameter).copy_(gradient)
            one = (parameter, gradient, self._states[name])
            moved.setdefault((parameter.device, parameter.dtype), []).append(one)
        for group in moved.values():
            parameters, grads, states = (list(each) for each in zip(*group, strict=True))
            steps, averages, squares = (list(each) for each in zip(*states, strict=True))
            torch._foreach_add_(steps, 1 - skip)
            torch._fused_adam_(
                parameters,
                grads,
                averages,
                squares,
                [],
                steps,
                lr=self._rate,
                beta1=_BETA1,
                beta2=_BETA2,
                eps=_EPSILON,
                weight_decay=self._weight_decay,
                amsgrad=False,
                maximize=False,
                found_inf=skip,
            )

    def state(self) -> dict[str, Tensor]:
        """The moments and counts as `step.NAME`, `exp_avg.NAME` and `exp_avg_sq.NAME`."""
        return {
            f"{key}.{name}": value
            for name, state in self._states.items()
            for key, value in state._asdict().items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Puts back what `state` returned, into the tensors that are there already."""
        for name, parameter in self._parameters.items():
            keys = [f"{key}.{name}" for key in _State._fields]
            if name in self._states:
                for key, present in zip(keys, self._states[name], strict=True):
                    present.copy_(state[key]) if key in state else present.zero_()
            elif keys[0] in state:
                self._states[name] = _State(*(state[key].to(parameter.device) for key in keys))
