"""Adam and its family: by torch's fused kernels where there are any, called directly, or by
torch's own functions.

`torch.optim.Adam.step` sorts and checks its tensors in Python in every step, which for the network
of Kingma and Welling (2014) takes as long as the kernel itself. And its kernel reads a gradient as
if it lay in memory like its parameter, which `torch.autograd.grad` does not promise.

On a GPU the fused kernel gives 65,536 elements to each block, so that a small network keeps a tenth
of the card busy. There torch's own functions can be compiled into one kernel of many blocks.
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.adamax import adamax
from torch.optim.adamw import adamw
from torch.optim.nadam import nadam
from torch.optim.radam import radam

from ppl_vae.compiler.comparison import NotCompilable
from ppl_vae.compiler.in_place import compile_in_place
from ppl_vae.errors import InputError
from ppl_vae.runs.settings import Optimizer

__all__ = ["FAMILY", "Adam", "Rule"]


@dataclasses.dataclass(frozen=True)
class Rule:
    """A rule of updates, with the constants of Kingma and Ba (2015) unless given.

    With g the gradient and t the updates done, m <- b1 m + (1 - b1) g, v <- b2 v + (1 - b2) g^2,
    M = m / (1 - b1^t) and V = v / (1 - b2^t), a parameter p becomes

    - Adam: p - rate * M / (sqrt(V) + e), with `weight_decay` times p added to g; Kingma and Ba
      (2015), algorithm 1;
    - AdamW: the same, but p shrinks by rate * weight_decay * p instead; Loshchilov and Hutter
      (2019), algorithm 2;
    - Adamax: p - rate * M / u with u <- max(b2 u, |g| + e); Kingma and Ba (2015), algorithm 2;
    - NAdam: Adam with Nesterov's momentum; Dozat (2016);
    - RAdam: Adam, and without its denominator while V is too uncertain; Liu et al. (2020);
    - Muon: that of `ppl_vae.training.muon.Muon` for the weights of layers, AdamW for all else.

    Attributes:
        optimizer: Its name.
        beta1: b1, in [0, 1).
        beta2: b2, in [0, 1).
        epsilon: e, at least 0.
        weight_decay: The L2 term, or for AdamW and Muon the decay, at least 0.
    """

    optimizer: Optimizer = "Adam"
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0


class _Kind(NamedTuple):
    """A function of torch, the names of its states in its order, and its further options."""

    function: Callable[..., None]
    states: tuple[str | None, ...]
    options: dict[str, Any]
    fused: str | None = None


_MOMENTS = ("exp_avg", "exp_avg_sq")
_PLAIN = {"amsgrad": False, "maximize": False}
FAMILY: dict[Optimizer, _Kind] = {
    "Adam": _Kind(adam, (*_MOMENTS, None, "step"), _PLAIN, "_fused_adam_"),
    "AdamW": _Kind(adamw, (*_MOMENTS, None, "step"), _PLAIN, "_fused_adamw_"),
    "Adamax": _Kind(adamax, ("exp_avg", "exp_inf", "step"), {}),
    "NAdam": _Kind(nadam, (*_MOMENTS, "mu_product", "step"), {"momentum_decay": 0.004}),
    "RAdam": _Kind(radam, (*_MOMENTS, "step"), {}),
}


class _Group(NamedTuple):
    """Parameters of one type that move together, and their states: the arguments of a kernel."""

    parameters: dict[str, nn.Parameter]
    states: list[list[Tensor]]
    compiled: Callable[..., object] | None = None


class Adam:
    """Updates parameters by a rule of Adam's family, all in one call where torch has a kernel.

    Args:
        parameters: The parameters to update, by name; on one device.
        rule: The rule; Adam's with its usual constants by default.
        device: Where the parameters are; that of the first by default.

    Raises:
        InputError: If a parameter's elements do not fill its memory.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        rule: Rule | None = None,
        device: torch.device | None = None,
    ) -> None:
        for name, parameter in parameters.items():
            dense = torch.empty_like(parameter).stride() == parameter.stride()
            if not (dense or parameter.is_contiguous()):
                raise InputError(
                    f"expected parameters whose elements fill their memory; {name} is a view of "
                    "a part of a tensor: make it with .clone() or .contiguous()"
                )
        self._parameters = dict(parameters)
        rule = rule or Rule()
        self._kind = FAMILY[rule.optimizer]
        self._options: dict[str, Any] = {
            "beta1": rule.beta1,
            "beta2": rule.beta2,
            "eps": rule.epsilon,
            "weight_decay": rule.weight_decay,
            **self._kind.options,
        }
        device = device or next(iter(parameters.values())).device
        # One tensor, so that counting is one operation however many parameters there are.
        self._counts = torch.zeros(len(parameters), device=device)
        self._states = {
            name: {
                key: self._counts[index] if key == "step" else _initial(key, parameter)
                for key in sorted(filter(None, self._kind.states))
            }
            for index, (name, parameter) in enumerate(parameters.items())
        }
        # Nearly always the same parameters move in every step, and sorting them takes time.
        self._moving: dict[tuple[str, ...], tuple[Tensor, list[_Group]]] = {}
        # On a GPU no count is read, and the rate is a tensor: a captured step can change both.
        self._capturable = device.type != "cpu"
        self._rate: float | Tensor = torch.zeros((), device=device) if self._capturable else 0.0
        self._compiling = False

    def compile(self) -> None:
        """Has a compiled function take the updates from now on, if it is the same up to rounding.

        It pays on a GPU, where the rate and the counts are tensors.
        """
        self._compiling = True
        self._moving.clear()

    def set_rate(self, rate: float) -> None:
        """Sets the step size."""
        if isinstance(self._rate, Tensor):
            self._rate.fill_(rate)
        else:
            self._rate = rate

    @torch.no_grad()
    def update(self, gradients: Mapping[str, Tensor | None], skip: Tensor | None = None) -> None:
        """Updates once the parameters that have a gradient.

        Args:
            gradients: By the parameters' names; None for one on which the loss does not depend.
            skip: A scalar; where it is 1.0 nothing changes. It is read on the device, without
                waiting for it. None, on a CPU alone, is as good as 0.0 and takes less time.
        """
        names = tuple(name for name in self._parameters if gradients[name] is not None)
        if names not in self._moving:
            self._moving[names] = self._groups(names)
        moves, groups = self._moving[names]
        fused = None if self._compiling else self._kind.fused
        kernel = getattr(torch, fused, None) if fused else None  # a private name, which may go
        if kernel:
            counted = moves if skip is None else moves * (1 - skip)
            self._counts.add_(counted)
        for parameters, states, compiled in groups:
            moved: list[Tensor] = list(parameters.values())
            found = [_laid_out_as(p, gradients[name]) for name, p in parameters.items()]
            if kernel:
                options = {"lr": self._rate, **self._options}
                kernel(moved, found, *states, **options, found_inf=skip)
            elif compiled:
                compiled(
                    *_flat(moved, found, *self._moments(states)), self._counts, self._rate, skip
                )
            else:
                self._apart([moved, found, *states], self._rate, skip, foreach=False)

    def _apart(
        self, lists: list[list[Tensor]], rate: float | Tensor, skip: Tensor | None, foreach: bool
    ) -> None:
        """One update by torch's own function: of parameters by gradients, and of their states."""
        options = {"foreach": foreach, "capturable": self._capturable, **self._options}
        changed = _flat(lists[0], *lists[2:])
        before = [] if skip is None else [tensor.clone() for tensor in changed]
        self._kind.function(*lists, lr=rate, **options)
        if skip is not None:
            for tensor, old in zip(changed, before, strict=True):
                tensor.copy_(torch.where(skip > 0, old, tensor))

    def _compiled(self, group: _Group) -> _Group:
        """The group with a compiled `_apart`, if there is one."""
        moved = [parameter.detach() for parameter in group.parameters.values()]
        lists = [moved, moved, *self._moments(group.states)]
        ends = [*accumulate(map(len, lists))]
        places = [[*self._parameters].index(name) for name in group.parameters]

        def update(*tensors: Tensor) -> None:
            *each, counts, rate, skip = tensors
            parts = [list(each[start:end]) for start, end in pairwise([0, *ends])]
            states = iter(parts[2:])
            steps = [counts[place] for place in places]
            ordered = [steps if key == "step" else next(states) for key in self._kind.states]
            self._apart([*parts[:2], *ordered], rate, skip, foreach=True)

        rate, skip = (self._counts.new_full((), value) for value in (0.1, 0.0))
        examples = [_spread(number, tensor) for number, tensor in enumerate(_flat(*lists))]
        try:
            function = compile_in_place(update, [*examples, self._counts + 3, rate, skip])
        except NotCompilable as error:
            print(f"engine: Adam takes its steps uncompiled, because it {error}", file=sys.stderr)
            self._compiling = False
            return group
        return group._replace(compiled=function)

    def _moments(self, states: list[list[Tensor]]) -> list[list[Tensor]]:
        """The states without the counts, which are parts of one tensor."""
        return [each for each, key in zip(states, self._kind.states, strict=True) if key != "step"]

    def _groups(self, names: tuple[str, ...]) -> tuple[Tensor, list[_Group]]:
        """1 for each parameter of these names and 0 for the others, and their groups."""
        alike: dict[torch.dtype, list[str]] = {}
        for name in names:
            alike.setdefault(self._parameters[name].dtype, []).append(name)
        groups = [
            _Group(
                {name: self._parameters[name] for name in group},
                [
                    [self._states[name][key] for name in group] if key else []
                    for key in self._kind.states
                ],
            )
            for group in alike.values()
        ]
        groups = [self._compiled(group) if self._compiling else group for group in groups]
        moves = torch.tensor([float(name in names) for name in self._parameters])
        return moves.to(self._counts.device), groups

    def state(self) -> dict[str, Tensor]:
        """The moments and counts, as `step.NAME` and `exp_avg.NAME` and so on."""
        return {
            f"{key}.{name}": value
            for name, state in self._states.items()
            for key, value in state.items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Copies a result of `state` into the present tensors; those that it lacks begin again."""
        for name, states in self._states.items():
            for key, present in states.items():
                there = state.get(f"{key}.{name}")
                present.copy_(_initial(key, self._parameters[name]) if there is None else there)


def _spread(number: int, tensor: Tensor) -> Tensor:
    """Values in a tensor's layout on which another update would show; means of squares are > 0."""
    places = torch.arange(tensor.numel(), device=tensor.device) + number
    values = places.to(tensor.dtype).cos() / 4 + 0.5
    return torch.empty_like(tensor).copy_(values.reshape(tensor.shape))


def _flat(*lists: Sequence[Tensor]) -> list[Tensor]:
    return [tensor for tensors in lists for tensor in tensors]


def _initial(key: str, parameter: nn.Parameter) -> Tensor:
    if key in ("step", "mu_product"):  # scalars; the second is a product
        return torch.full((), float(key == "mu_product"), device=parameter.device)
    return torch.zeros_like(parameter)


def _laid_out_as(parameter: nn.Parameter, gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)
