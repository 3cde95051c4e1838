"""Data drawn from a model together with their latents."""

from inspect import signature
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from ppl_vae.densities.sites import Batch, Latents, Program, as_batch
from ppl_vae.errors import InputError

__all__ = ["simulate"]


def simulate(
    model: Program, size: int, like: Tensor | Batch | None = None
) -> tuple[Batch, Latents]:
    """Draws (x, z) from p(x, z).

    Args:
        model: Called as `model(size=...)` where it has such a parameter, and returns x; else with
            data of the right shape, whose observation is undone.
        size: How many to draw.
        like: Data that give shapes and types to a model without `size`, and whatever the programs
            take beside what they observe, such as classes: row by row, from the first again where
            there are fewer.

    Returns:
        The data, to call the programs with, and the other sites, (size, ...).

    Raises:
        InputError: If the model has no parameter `size` and `like` is not given, or what it
            observes is no argument of its.
    """
    if like is not None:
        batch = as_batch(like)
        rows = torch.arange(size, device=batch[0].device) % len(batch[0])
        batch = tuple(part[rows] for part in batch)
        trace = poutine.trace(poutine.uncondition(model)).get_trace(*batch)
    elif "size" in signature(getattr(model, "forward", model)).parameters:
        trace, batch = poutine.trace(model).get_trace(size=size), ()
    else:
        raise InputError(
            "expected a model that draws by itself, model(size=...), or data to take the shapes "
            "from; give like=x"
        )
    returned: Any = trace.nodes["_RETURN"]["value"]
    nodes: dict[str, Any] = dict(prune_subsample_sites(trace).nodes)
    nodes = {name: node for name, node in nodes.items() if node["type"] == "sample"}
    data, latents = list(batch), {}
    for name, node in nodes.items():
        observed = node["infer"].get("obs") if like is not None else None
        if like is None and node["value"] is returned:
            data = [node["value"]]
        elif observed is None or not observed.numel():  # also a factor, which has no value
            latents[name] = node["value"]
        else:
            place = _argument(name, observed, batch)
            data[place] = node["value"].reshape(batch[place].shape).to(batch[place])
    if not data:
        raise InputError(
            f"expected model(size=...) to return the data; got none of the sites {sorted(nodes)}"
        )
    return tuple(data), latents


def _argument(name: str, observed: Tensor, batch: Batch) -> int:
    """Which argument of the model a site observes, as it is or reshaped."""
    fitting = [place for place, part in enumerate(batch) if part.numel() == observed.numel()]
    same = [place for place in fitting if batch[place].data_ptr() == observed.data_ptr()]
    equal = [
        place
        for place in fitting
        if torch.equal(batch[place].reshape(observed.shape).to(observed), observed)
    ]
    if not same and not equal:
        raise InputError(
            f"expected the model to observe its arguments; what {name!r} observes is none of them, "
            "so that data drawn there cannot be handed to the guide"
        )
    return (same or equal)[0]
