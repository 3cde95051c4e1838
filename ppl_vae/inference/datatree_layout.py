"""How a pair's draws are laid out for ArviZ: groups, dimensions, coordinates, units."""

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
from numpy.typing import NDArray

if TYPE_CHECKING:
    from xarray import Dataset, DataTree

__all__ = ["LOGARITHMS", "Arrays", "Values", "lay_out"]

_IMAGE = ("channel", "height", "width")
LOGARITHMS = {
    "log_prior": "log p(z)",
    "log_joint": "log p(x, z)",
    "log_guide": "log q(z|x)",
    "log_weight": "log w = log p(x, z) - log q(z|x)",
}
_MEANINGS = {
    **{name: (meaning, "nats") for name, meaning in LOGARITHMS.items()},
    "energy": ("Hamiltonian at the draw, kinetic energy - log p(x, z)", "nats"),
    "lp": ("log p(x, z) of z without constraints", "nats"),
    "diverging": ("whether the trajectory diverged", "1"),
    "acceptance_rate": ("mean acceptance along the trajectory", "1"),
    "n_steps": ("leapfrog steps of the trajectory", "1"),
    "step_size": ("step size of the chain", "1"),
    "label": ("label, -1 where it is not known", "1"),
    "chain": ("chain", "1"),
    "draw": ("draw in its chain", "1"),
    "image": ("index of the image", "1"),
    "latent": ("dimension of z", "1"),
    "channel": ("colour channel", "1"),
    "height": ("row, from the top", "pixel"),
    "width": ("column, from the left", "pixel"),
}

_ORDER = (
    "posterior",
    "prior",
    "posterior_predictive",
    "prior_predictive",
    "log_likelihood",
    "sample_stats",
    "observed_data",
    "constant_data",
)

Arrays = dict[str, NDArray[Any]]
Values = dict[str, Arrays]


def lay_out(
    values: Values,
    latents: Mapping[str, Sequence[int]],
    observed: Mapping[str, Sequence[int]],
    images: NDArray[Any],
    source: str = "draw from the guide q(z|x)",
) -> "DataTree":
    """Arrays as groups with named and described dimensions.

    Args:
        values: Arrays by group and name, (chain, draw, image, ...), or (image, ...) where the group
            is of data.
        latents: The latent sites, and the shape of each.
        observed: The observed sites, and the shape of each.
        images: The coordinate `image` of each datum.
        source: What the draws of the posterior are.
    """
    from arviz_base import dict_to_dataset
    from xarray import DataTree

    shapes = {**latents, **observed}
    inside = {site: _dims(site, event, len(latents)) for site, event in latents.items()}
    inside |= {site: _dims(site, event) for site, event in observed.items()}
    groups = {}
    for group in sorted(values, key=_ORDER.index):
        sampled = not group.endswith("_data")
        # In these two groups a number is of a draw as a whole, and has no dimensions of its own.
        whole = group in ("log_likelihood", "sample_stats")
        dims = {name: [] if whole else inside.get(name, []) for name in values[group]}
        coords: dict[Any, Any] = {"image": images}
        for name, own in dims.items():
            coords |= {dim: np.arange(n) for dim, n in zip(own, shapes.get(name, ()), strict=False)}
        with warnings.catch_warnings():
            # Fewer predictive draws than chains are meant.
            warnings.filterwarnings("ignore", message="Found chain dimension to be longer")
            dataset = dict_to_dataset(
                values[group],
                coords=coords,
                dims={name: ["image", *own] for name, own in dims.items()},
                sample_dims=["chain", "draw"] if sampled else [],
                inference_library=pyro,
            )
        groups[group] = _described(dataset, group, source)
    return DataTree.from_dict(groups)


def _dims(site: str, event: Sequence[int], latents: int = 0) -> list[str]:
    """Names of the dimensions of a site's value."""
    if not latents and len(event) == len(_IMAGE):
        return list(_IMAGE)
    if latents and len(event) == 1:
        return ["latent" if latents == 1 else f"{site}_latent"]
    return [f"{site}_dim_{place}" for place in range(len(event))]


def _described(dataset: "Dataset", group: str, source: str) -> "Dataset":
    """Describes each variable and coordinate, with its unit."""
    drawn = {
        "posterior": source,
        "prior": "draw from p(z)",
        "posterior_predictive": "draw from p(x|z), z from the guide",
        "prior_predictive": "draw from p(x)",
        "observed_data": "as the model sees it",
    }
    meanings = {str(name): (drawn[group], "1") for name in dataset.data_vars if group in drawn}
    meanings |= _MEANINGS
    if group == "log_likelihood":
        meanings |= {name: (f"log p({name}|z)", "nats") for name in map(str, dataset.data_vars)}
    for name in dataset.variables:
        if name in meanings:
            long_name, units = meanings[str(name)]
            dataset[name].attrs.update(long_name=long_name, units=units)
    return dataset
