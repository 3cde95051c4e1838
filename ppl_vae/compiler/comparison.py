"""Whether two functions to a loss and its gradients are the same one."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

__all__ = [
    "Batch",
    "Gradients",
    "NotCompilable",
    "Outcome",
    "Trial",
    "check_same",
    "difference",
    "first_line",
    "outcomes",
    "relative_distance",
    "with_gradients",
]

Gradients = Callable[..., tuple[Tensor, dict[str, Tensor | None]]]
Batch = tuple[Tensor, ...]
Outcome = dict[str, Tensor | None]


class NotCompilable(Exception):
    """No graph can stand for a pair; the message completes the sentence "the pair ..."."""


def with_gradients(programs: nn.Module) -> Gradients:
    """The loss that a module returns together with its gradients, by autograd.

    Returns:
        A function to the detached loss, and the gradient for each parameter by name, None where
        the loss does not depend on it.
    """
    parameters = dict(programs.named_parameters())

    def run(*batch: Tensor, **scheduled: Tensor) -> tuple[Tensor, Outcome]:
        loss = programs(*batch, **scheduled)
        learned = {name: p for name, p in parameters.items() if p.requires_grad}
        gradients = torch.autograd.grad(loss, list(learned.values()), allow_unused=True)
        none: Outcome = dict.fromkeys(parameters)
        return loss.detach(), {**none, **dict(zip(learned, gradients, strict=True))}

    return run


@dataclass(frozen=True)
class Trial:
    """Programs, and what to call them on.

    Attributes:
        programs: The module that runs them.
        batch: Its arguments by position: images, and labels where the model takes them.
        scheduled: Its arguments by name: the scalars that the objective schedules.
    """

    programs: nn.Module
    batch: Batch
    scheduled: dict[str, Tensor]

    def outcome(self, run: Gradients, seed: int = 0) -> Outcome:
        """The result of a call, and the parameters and buffers after it, which are restored."""
        state = {
            f"the {kind} {name}": (tensor, tensor.detach().clone())
            for kind, tensors in (
                ("parameter", self.programs.named_parameters()),
                ("buffer", self.programs.named_buffers()),
            )
            for name, tensor in tensors
        }
        torch.manual_seed(seed)
        loss, gradients = run(*self.batch, **self.scheduled)
        left = {name: tensor.detach().clone() for name, (tensor, _) in state.items()}
        with torch.no_grad():
            for tensor, before in state.values():
                tensor.copy_(before)
        named = {f"the gradient of {name}": value for name, value in gradients.items()}
        return {"its value": loss, **named, **left}

    def on_other_images(self) -> "Trial":
        """The same on other images, half of them one image, which has other batch statistics."""
        images, *labels = self.batch
        other = images.roll(1, -1)
        half = (len(images) + 1) // 2
        other[half:] = other[0].clone()
        rest = torch.arange(half, len(images), device=images.device)
        return replace(self, batch=(other, *(part.index_fill(0, rest, 0) for part in labels)))


def outcomes(trial: Trial, run: Gradients, seed: int = 0) -> list[Outcome]:
    """The outcomes on two batches, each under random numbers of its own.

    Args:
        trial: The programs, and the first batch. The second has other content, so that a branch
            on the data cannot stay unnoticed.
        run: The function to call.
        seed: For the first batch; the second has the next one.
    """
    batches = (trial, trial.on_other_images())
    return [each.outcome(run, number) for number, each in enumerate(batches, seed)]


def check_same(
    expected: list[Outcome],
    got: list[Outcome],
    relative: float,
    unrounded: list[Outcome] | None = None,
) -> None:
    """Compares what two functions gave on the same batches under the same random numbers.

    Args:
        expected: The outcomes of the function that is right.
        got: Those of the function to check.
        relative: The error allowed, as in `difference`.
        unrounded: The first function's in a higher precision, as in `difference`.

    Raises:
        NotCompilable: If they differ.
    """
    exact = unrounded or expected
    for right, other, higher in zip(expected, got, exact, strict=True):
        found = difference(right, other, relative, higher)
        if found:
            raise NotCompilable(f"has a graph in which {found}")


def difference(
    expected: Outcome, got: Outcome, relative: float, unrounded: Outcome | None = None
) -> str | None:
    """The first difference between two outcomes.

    Near an optimum a gradient is a small sum of large terms, and rounding is a large part of it. So
    where `expected` is rounded, `got` may be as far from the unrounded outcome as `expected` is;
    then they are at most twice that far apart.

    Args:
        expected: The outcome that is right.
        got: The outcome to check.
        relative: The error allowed, relative to the largest entry; of a small gradient, to a tenth
            of the largest of all.
        unrounded: The right outcome in a higher precision; by default `expected` has no other.

    Returns:
        A phrase, or None where they agree.
    """
    gradients = {name: value for name, value in expected.items() if _is_gradient(name)}
    largest = max((_size(value) for value in gradients.values()), default=0.0)
    for name, value in expected.items():
        other = got[name]
        if value is None and other is None:
            continue
        if value is None or other is None:
            return f"{name} is missing on one side"
        if torch.equal(value, other):
            continue
        error = _apart(value, other)
        scale = max(_size(value), 0.1 * largest) if name in gradients else _size(value)
        if not error <= max(relative * scale, 2 * _apart(value, (unrounded or expected)[name])):
            return f"{name} is off by {error:.1e}"
    return None


def relative_distance(expected: Outcome, got: Outcome) -> float:
    """How far two outcomes are apart: the error of the loss, or of all gradients as one vector.

    A rounding error that turns a unit on or off changes single entries of a gradient, and hardly
    its norm.

    Returns:
        The larger of the two, relative to the loss, or to 1 nat where it is smaller, and to the
        norm of the gradient.
    """
    pairs = [(expected[name], got[name]) for name in expected if _is_gradient(name)]
    vectors = [(a.double(), b.double()) for a, b in pairs if a is not None and b is not None]
    apart = sum((_squares(b - a) for a, b in vectors), 0.0)
    norm = sum((_squares(a) for a, _ in vectors), 0.0)
    loss, other = expected["its value"], got["its value"]
    assert loss is not None
    assert other is not None
    of_loss = (other - loss).abs().item() / max(1.0, loss.abs().item())
    return max(of_loss, (apart / norm) ** 0.5 if norm else 0.0)


def _is_gradient(name: str) -> bool:
    return name.startswith("the gradient of")


def _size(value: Tensor | None) -> float:
    return value.abs().max().item() if value is not None and value.numel() else 0.0


def _apart(value: Tensor, other: Tensor | None) -> float:
    return 0.0 if other is None else _size(other.double() - value.double())  # it may be a mask


def _squares(value: Tensor) -> float:
    return value.square().sum().item()


def first_line(error: Exception) -> str:
    """The message of the first of an error's causes, in one line."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return str(error).strip().partition("\n")[0] or type(error).__name__
