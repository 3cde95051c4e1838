"""Whether two functions to a loss and its gradients are the same one, on two batches."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

__all__ = [
    "Batch",
    "Gradients",
    "NotStageable",
    "check_same",
    "first_line",
    "other_images",
    "with_gradients",
]

Loss = Callable[..., Tensor]
Gradients = Callable[..., tuple[Tensor, dict[str, Tensor | None]]]
Batch = tuple[Tensor, ...]


class NotStageable(Exception):
    """A pair whose staged graph is not its eager program: what the pair is or has, in one line."""


def with_gradients(owner: nn.Module, loss_of: Loss | None = None) -> Gradients:
    """A loss together with its gradients, by autograd.

    Args:
        owner: Whose parameters the gradients are for.
        loss_of: The loss; the owner itself unless given.

    Returns:
        A function to the detached loss, and the gradient for each parameter of `owner` by name,
        None where the loss does not depend on it.
    """
    parameters = dict(owner.named_parameters())
    evaluate = owner if loss_of is None else loss_of

    def run(*batch: Tensor, **scheduled: Tensor) -> tuple[Tensor, dict[str, Tensor | None]]:
        loss = evaluate(*batch, **scheduled)
        learned = {name: p for name, p in parameters.items() if p.requires_grad}
        gradients = torch.autograd.grad(loss, list(learned.values()), allow_unused=True)
        none: dict[str, Tensor | None] = dict.fromkeys(parameters)
        return loss.detach(), {**none, **dict(zip(learned, gradients, strict=True))}

    return run


def check_same(
    reference: Gradients,
    other: Gradients,
    owner: nn.Module,
    batch: Batch,
    scheduled: dict[str, Tensor],
    relative: float,
) -> None:
    """Compares loss, gradients and buffers on two batches under the same random numbers.

    Args:
        reference: What is right.
        other: What is to be checked.
        owner: Whose parameters and buffers they are.
        batch: Images, and labels where the model takes them.
        scheduled: The scalars that the objective schedules.
        relative: The error allowed, relative to the largest entry; of a gradient that is
            small, to a tenth of the largest of all.

    Raises:
        NotStageable: If they differ.
    """
    # The second has other content, so that a branch on the data cannot stay unnoticed.
    for seed, parts in enumerate((batch, other_images(batch))):
        try:
            expected = _outcome(partial(reference, *parts, **scheduled), owner, seed)
            got = _outcome(partial(other, *parts, **scheduled), owner, seed)
        except Exception as error:
            raise NotStageable(f"has a graph that does not run: {first_line(error)}") from error
        every = [value for name, value in expected.items() if name.startswith("the gradient of")]
        sizes = [value.abs().max().item() for value in every if value is not None and value.numel()]
        largest = max(sizes, default=0.0)
        for name, value in expected.items():
            other_value = got[name]
            if value is None and other_value is None:
                continue
            if value is None or other_value is None:
                raise NotStageable(f"has a graph in which {name} is missing on one side")
            if torch.equal(value, other_value):
                continue
            value, other_value = value.double(), other_value.double()  # a buffer may be a mask
            difference = (other_value - value).abs().max().item()
            scale = value.abs().max().item()
            if name.startswith("the gradient of"):
                scale = max(scale, 0.1 * largest)
            if not difference <= relative * scale:
                raise NotStageable(f"has a graph in which {name} is off by {difference:.1e}")


def other_images(batch: Batch) -> Batch:
    """A batch of other images, half of them the same one: for batch statistics of another kind."""
    images, *labels = batch
    other = images.roll(1, -1)
    half = (len(images) + 1) // 2
    other[half:] = other[0].clone()
    return other, *(part.index_fill(0, torch.arange(half, len(part), device=part.device), 0)
                    for part in labels)  # fmt: skip


def _outcome(
    run: Callable[[], tuple[Tensor, dict[str, Tensor | None]]], owner: nn.Module, seed: int
) -> dict[str, Tensor | None]:
    before = {name: buffer.clone() for name, buffer in owner.named_buffers()}
    torch.manual_seed(seed)
    loss, gradients = run()
    outcome: dict[str, Tensor | None] = {"its value": loss}
    for name, gradient in gradients.items():
        outcome[f"the gradient of {name}"] = gradient
    for name, buffer in owner.named_buffers():
        outcome[f"the buffer {name}"] = buffer.clone()
        buffer.copy_(before[name])
    return outcome


def first_line(error: Exception) -> str:
    """What the first of an error's causes says, in one line."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return str(error).strip().partition("\n")[0] or type(error).__name__
