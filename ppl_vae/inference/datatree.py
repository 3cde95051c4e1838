"""A pair's draws for given data as an `xarray.DataTree`, in the groups that ArviZ knows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pyro import poutine
from torch import Tensor, nn

from ppl_vae.densities.joint import Batch, Joint, Program
from ppl_vae.errors import InputError
from ppl_vae.inference.datatree_layout import LOGARITHMS, Values, lay_out
from ppl_vae.inference.netcdf import needs_arviz
from ppl_vae.machine.memory import MEMORY_BYTES
from ppl_vae.machine.randomness import isolated

if TYPE_CHECKING:
    from xarray import DataTree

__all__ = ["PREDICTIVE_BYTES", "to_datatree"]

PREDICTIVE_BYTES = 128 * 2**20  # bound on the images of each predictive group


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
    return lay_out(values, joint.sites, (observed.name, observed.value.shape[1:]), index)


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
    stats = {name: _empty(*size) for name in LOGARITHMS}
    log_likelihoods = {observed.name: _empty(*size)}
    for rows, start, count in joint.pieces(draws * chains, memory_bytes):
        latents, log_guide = joint[rows].draw(count)
        log_prior, log_likelihood = joint[rows].log_terms(latents)
        log_joint = log_prior + log_likelihood
        logarithms = (log_prior, log_joint, log_guide, log_joint - log_guide)
        particles = slice(start, start + count)
        for site, value in latents.items():
            _flat(posterior[site])[particles, rows] = value.cpu().numpy()
        for name, value in zip(LOGARITHMS, logarithms, strict=True):
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
