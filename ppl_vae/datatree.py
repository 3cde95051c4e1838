"""A pair's draws for given data as an `xarray.DataTree`, in the groups that ArviZ knows."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch
from numpy.typing import NDArray
from pyro import poutine
from torch import Tensor, nn

from ppl_vae.errors import InputError
from ppl_vae.files import whole_file
from ppl_vae.isolation import isolated
from ppl_vae.joint import MEMORY_BYTES, Batch, Joint, Program

if TYPE_CHECKING:
    from xarray import Dataset, DataTree

__all__ = ["PREDICTIVE_BYTES", "needs_arviz", "read_datatree", "to_datatree", "write_datatree"]

PREDICTIVE_BYTES = 128 * 2**20  # bound on the images of each predictive group
_IMAGE = ("channel", "height", "width")
_LOGARITHMS = {
    "log_prior": "log p(z)",
    "log_joint": "log p(x, z)",
    "log_guide": "log q(z|x)",
    "log_weight": "log w = log p(x, z) - log q(z|x)",
}
_MEANINGS = {
    **{name: (meaning, "nats") for name, meaning in _LOGARITHMS.items()},
    "label": ("label, -1 where it is not known", "1"),
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

Values = dict[str, dict[str, NDArray[Any]]]


def to_datatree(
    model: Program,
    guide: Program,
    x: Tensor | Batch,
    *,
    draws: int = 250,
    chains: int = 4,
    predictive_draws: int = 25,
    images: Sequence[int] | None = None,
    labels: Sequence[int] | None = None,
    memory_bytes: int = MEMORY_BYTES,
    advance: Callable[[int], None] = lambda images: None,
) -> "DataTree":
    """Draws z from the guide for each datum and lays out all that ArviZ can use.

    The pair is any two Pyro programs with one plate over the data at dim -1, continuous latents in
    it that the two share, and one observed site. Draws from a guide are independent: the chains
    only give ArviZ the shape that it expects.

    - `posterior`: z ~ q(z|x), (chain, draw, image, latent);
    - `prior`: z ~ p(z), the same but for fewer draws;
    - `posterior_predictive`: x ~ p(x|z) for the first draws of `posterior`;
    - `prior_predictive`: x ~ p(x|z) for the draws of `prior`;
    - `log_likelihood`: log p(x|z), (chain, draw, image) in nats;
    - `sample_stats`: `log_prior` log p(z), `log_joint` log p(x, z), `log_guide` log q(z|x) and
      `log_weight` log p(x, z) - log q(z|x), (chain, draw, image) in nats;
    - `observed_data`: x;
    - `constant_data`: the labels, where there are any.

    Predictive images are bytes where the likelihood is a mass on 0, ..., 255 or on fewer values,
    else float32. Each predictive group stays below 128 MiB (`PREDICTIVE_BYTES`): of many data it
    has fewer draws than asked for, at least one in each chain.

    Args:
        model: p(x, z), called as model(*x).
        guide: q(z|x), called as guide(*x).
        x: B data, (B, ...); a tuple where the programs take more than one argument.
        draws: Draws for each datum and chain.
        chains: Chains.
        predictive_draws: Predictive draws for each datum and chain, at most.
        images: What the coordinate `image` says of each datum; 0, ..., B - 1 unless given.
        labels: The label of each datum, -1 where it is not known.
        memory_bytes: Bound on the temporaries of one pass.
        advance: Told how many draws of z were made and scored, over all data, after each pass.

    Raises:
        InputError: If a count is below 1 or does not fit x, ArviZ's packages are absent, or the
            pair is not such a pair.
    """
    counts = {"draws": draws, "chains": chains, "predictive_draws": predictive_draws}
    for name, count in counts.items():
        if count < 1:
            raise InputError(f"expected {name} >= 1; got {count}")
    needs_arviz()
    joint = Joint.of(model, guide, x)
    for name, given in (("images", images), ("labels", labels)):
        if given is not None and len(given) != len(joint):
            raise InputError(f"expected {name} of {len(joint)} data; got {len(given)}")
    observed = _Observed.of(joint)
    most = PREDICTIVE_BYTES // (chains * len(joint) * observed.bytes)
    few = min(predictive_draws, draws, max(1, most))
    with torch.no_grad():
        values = _inferred(joint, observed, chains, draws, memory_bytes, advance)
        values |= _predicted(joint, observed, chains, few, memory_bytes, values["posterior"])
    values["observed_data"] = {observed.name: observed.value.astype(observed.dtype)}
    if labels is not None:
        values["constant_data"] = {"label": np.asarray(labels)}
    index = np.arange(len(joint)) if images is None else np.asarray(images)
    return _tree(values, joint, observed, index)


def write_datatree(tree: "DataTree", path: Path) -> None:
    """Writes a tree as NetCDF, whole or not at all; predictive images are compressed.

    Raises:
        OSError: If the file cannot be written; the old one stays.
    """
    packed = {"zlib": True, "complevel": 1, "shuffle": False}
    encoding = {
        f"/{group}": dict.fromkeys(tree.children[group].data_vars, packed)
        for group in ("prior_predictive", "posterior_predictive")
        if group in tree.children
    }
    with whole_file(path) as file:
        tree.to_netcdf(file.name, engine="h5netcdf", encoding=encoding)


def read_datatree(path: str | Path) -> "DataTree":
    """Reads what `write_datatree` wrote, into memory.

    Raises:
        InputError: If the file is missing, or not a whole NetCDF file.
    """
    needs_arviz()
    import xarray

    if not Path(path).is_file():
        raise InputError(f"{path}: expected a NetCDF file; there is none")
    try:
        with xarray.open_datatree(path, engine="h5netcdf") as tree:
            return tree.load()
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise InputError(
            f"{path} is damaged, or no NetCDF file; write it again with "
            "python -m ppl_vae.posterior RUN"
        ) from error


def needs_arviz() -> None:
    """Imports ArviZ's packages, which takes seconds.

    Raises:
        InputError: If one is absent.
    """
    try:
        for package in ("arviz_base", "arviz_stats", "arviz_plots", "h5netcdf"):
            import_module(package)
    except ImportError as error:
        raise InputError(
            f"this needs ArviZ, and {error.name} is not installed: "
            "python -m pip install 'ppl-vae[arviz]'"
        ) from error


@dataclass(frozen=True)
class _Observed:
    """The one observed site: its name, value, and what draws of it are stored as."""

    name: str
    value: NDArray[Any]
    dtype: Any

    @property
    def bytes(self) -> int:
        """What one draw takes."""
        return prod(self.value.shape[1:]) * np.dtype(self.dtype).itemsize

    @classmethod
    def of(cls, joint: Joint) -> "_Observed":
        modules = [p for p in (joint.model, joint.guide) if isinstance(p, nn.Module)]
        with torch.no_grad(), isolated(joint.batch[0].device, *modules):
            latents, _ = joint.draw(1)
            nodes = joint._trace(poutine.condition(joint.model, data=latents), 1)
        names = [name for name in nodes if name not in (*joint.sites, *joint.summed)]
        if len(names) != 1:
            raise InputError(f"expected a model with one observed site; it observes {names}")
        node = nodes[names[0]]
        value = node["value"].expand(len(joint), *node["fn"].event_shape)
        small = value.min() >= 0 and _largest(node["fn"].support) <= 255
        return cls(names[0], value.cpu().numpy(), np.uint8 if small else np.float32)


def _largest(support: Any) -> float:
    """The largest of finitely many whole numbers, and infinity where a support is none such."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    if not support.is_discrete:
        return float("inf")
    if support is torch.distributions.constraints.boolean:
        return 1.0
    return float(torch.as_tensor(getattr(support, "upper_bound", torch.inf)).max())


def _empty(
    draws: int, chains: int, data: int, event: Sequence[int] = (), dtype: Any = np.float32
) -> NDArray[Any]:
    return np.empty((draws, chains, data, *event), dtype)


def _flat(values: NDArray[Any]) -> NDArray[Any]:
    """(draw, chain, ...) as (particle, ...), a view: first come the first draws of all chains."""
    return values.reshape(-1, *values.shape[2:])


def _by_chain(values: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name: value.swapaxes(0, 1) for name, value in values.items()}


def _inferred(
    joint: Joint,
    observed: _Observed,
    chains: int,
    draws: int,
    memory_bytes: int,
    advance: Callable[[int], None],
) -> Values:
    """The groups of z ~ q(z|x)."""
    size = (draws, chains, len(joint))
    posterior = {site: _empty(*size, event) for site, event in joint.sites.items()}
    stats = {name: _empty(*size) for name in _LOGARITHMS}
    log_likelihoods = {observed.name: _empty(*size)}
    for rows, start, count in joint.pieces(draws * chains, memory_bytes):
        latents, log_guide = joint[rows].draw(count)
        log_prior, log_likelihood = joint[rows].log_terms(latents)
        log_joint = log_prior + log_likelihood
        logarithms = (log_prior, log_joint, log_guide, log_joint - log_guide)
        particles = slice(start, start + count)
        for site, value in latents.items():
            _flat(posterior[site])[particles, rows] = value.cpu().numpy()
        for name, value in zip(_LOGARITHMS, logarithms, strict=True):
            _flat(stats[name])[particles, rows] = value.cpu().numpy()
        _flat(log_likelihoods[observed.name])[particles, rows] = log_likelihood.cpu().numpy()
        advance(log_guide.numel())
    return {
        "posterior": _by_chain(posterior),
        "sample_stats": _by_chain(stats),
        "log_likelihood": _by_chain(log_likelihoods),
    }


def _predicted(
    joint: Joint,
    observed: _Observed,
    chains: int,
    draws: int,
    memory_bytes: int,
    posterior: dict[str, NDArray[Any]],
) -> Values:
    """The groups of x ~ p(x|z), for z from the prior and for the first z from the guide."""
    size = (draws, chains, len(joint))
    prior = {site: _empty(*size, event) for site, event in joint.sites.items()}
    images = [
        {observed.name: _empty(*size, observed.value.shape[1:], observed.dtype)} for _ in range(2)
    ]
    inferred = {site: z[:, :draws].swapaxes(0, 1) for site, z in posterior.items()}
    program = poutine.uncondition(joint.model)
    for rows, start, count in joint.pieces(draws * chains, memory_bytes):
        part, particles = joint[rows], slice(start, start + count)
        nodes = part._trace(program, count)
        shape = (count, len(part))
        for site, event in joint.sites.items():
            z = nodes[site]["value"].expand(*shape, *event)
            _flat(prior[site])[particles, rows] = z.cpu().numpy()
        known = {
            site: torch.as_tensor(_flat(z)[particles, rows]).to(nodes[site]["value"])
            for site, z in inferred.items()
        }
        given = part._trace(poutine.condition(program, data=known), count)
        for drawn, target in zip((nodes, given), images, strict=True):
            value = drawn[observed.name]["value"].cpu().numpy()
            _flat(target[observed.name])[particles, rows] = value
    return {
        "prior": _by_chain(prior),
        "prior_predictive": _by_chain(images[0]),
        "posterior_predictive": _by_chain(images[1]),
    }


def _tree(values: Values, joint: Joint, observed: _Observed, images: NDArray[Any]) -> "DataTree":
    from arviz_base import dict_to_dataset
    from xarray import DataTree

    shapes = {**joint.sites, observed.name: observed.value.shape[1:]}
    inside = {site: _dims(site, event, len(joint.sites)) for site, event in joint.sites.items()}
    inside[observed.name] = _dims(observed.name, observed.value.shape[1:])
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
        groups[group] = _described(dataset, group, observed.name)
    return DataTree.from_dict(groups)


def _dims(site: str, event: Sequence[int], latents: int = 0) -> list[str]:
    """Names of the dimensions of a site's value."""
    if not latents and len(event) == len(_IMAGE):
        return list(_IMAGE)
    if latents and len(event) == 1:
        return ["latent" if latents == 1 else f"{site}_latent"]
    return [f"{site}_dim_{place}" for place in range(len(event))]


def _described(dataset: "Dataset", group: str, observed: str) -> "Dataset":
    """Says what each variable and coordinate is, and its unit."""
    drawn = {
        "posterior": "draw from the guide q(z|x)",
        "prior": "draw from p(z)",
        "posterior_predictive": "draw from p(x|z), z from the guide",
        "prior_predictive": "draw from p(x)",
        "observed_data": "as the model sees it",
    }
    meanings = {str(name): (drawn[group], "1") for name in dataset.data_vars if group in drawn}
    meanings |= _MEANINGS
    if group == "log_likelihood":
        meanings[observed] = (f"log p({observed}|z)", "nats")
    for name in dataset.variables:
        if name in meanings:
            long_name, units = meanings[str(name)]
            dataset[name].attrs.update(long_name=long_name, units=units)
    return dataset
