"""A pair's draws for given data as an `xarray.DataTree`, in the groups that ArviZ knows."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from models.ranges import check_count
from ppl_vae.densities.joint import Joint
from ppl_vae.densities.of_pair import of_pair
from ppl_vae.errors import InputError
from ppl_vae.inference.datatree_layout import LOGARITHMS, Arrays, Values, lay_out
from ppl_vae.inference.netcdf import needs_arviz
from ppl_vae.inference.nuts import NutsPosterior

if TYPE_CHECKING:
    from xarray import DataTree

__all__ = ["PREDICTIVE_BYTES", "loo_pit_datatree", "nuts_datatree", "to_datatree"]

PREDICTIVE_BYTES = 128 * 2**20  # bound on the images of each predictive group


@of_pair
def to_datatree(
    joint: Joint,
    *,
    draws: int = 250,
    chains: int = 4,
    predictive_draws: int = 25,
    images: Sequence[int] | None = None,
    labels: Sequence[int] | None = None,
    advance: Callable[[int], None] = lambda images: None,
) -> "DataTree":
    """Draws z from the guide for each datum and lays them out in the groups of ArviZ.

    Draws from a guide are independent: the chains only give ArviZ the shape that it expects.

    - `posterior`: z ~ q(z|x), (chain, draw, image, latent);
    - `prior`: z ~ p(z), the same but for fewer draws;
    - `posterior_predictive`: x ~ p(x|z) for the first draws of `posterior`;
    - `prior_predictive`: x ~ p(x|z) for the draws of `prior`;
    - `log_likelihood`: log p(x|z) of each observed site, (chain, draw, image) in nats, for the
      draws of `posterior_predictive`, as leaving one out wants both;
    - `sample_stats`: `log_prior` log p(z), `log_joint` log p(x, z), `log_guide` log q(z|x) and
      `log_weight` log p(x, z) - log q(z|x), (chain, draw, image) in nats;
    - `observed_data`: x;
    - `constant_data`: the labels, where there are any.

    Predictive images are bytes where the likelihood is a mass on 0, ..., 255 or on fewer values,
    else float32. Each predictive group stays below 128 MiB (`PREDICTIVE_BYTES`): of many data it
    has fewer draws than asked for, at least one in each chain.

    Args:
        joint: The pair with its data, or `model, guide, x` in its place.
        draws: Draws for each datum and chain.
        chains: Chains.
        predictive_draws: Predictive draws for each datum and chain, at most.
        images: The coordinate `image` of each datum; 0, ..., B - 1 by default.
        labels: The label of each datum, -1 where it is not known.
        advance: Called after each pass with the number of draws of z that were made and scored.

    Raises:
        ValueError: If a count is below 1 or does not fit x, or ArviZ's packages are absent.
    """
    check_count("draws", draws)
    check_count("chains", chains)
    check_count("predictive_draws", predictive_draws)
    needs_arviz()
    for name, given in (("images", images), ("labels", labels)):
        if given is not None and len(given) != len(joint):
            raise InputError(f"expected {name} of {len(joint)} data; got {len(given)}")
    observed = _observed(joint)
    size = chains * sum(value.nbytes for value in observed.values())
    few = min(predictive_draws, draws, max(1, PREDICTIVE_BYTES // size))
    with torch.no_grad():
        flat = _inferred(joint, chains * draws, chains * few, advance)
        flat |= _predicted(joint, observed, chains * few, flat["posterior"])
    # First come the first draws of all chains.
    values = {
        group: {
            name: value.reshape(-1, chains, *value.shape[1:]).swapaxes(0, 1)
            for name, value in arrays.items()
        }
        for group, arrays in flat.items()
    }
    values["observed_data"] = observed
    if labels is not None:
        values["constant_data"] = {"label": np.asarray(labels)}
    index = np.arange(len(joint)) if images is None else np.asarray(images)
    shapes = {name: value.shape[1:] for name, value in observed.items()}
    return lay_out(values, joint.sites, shapes, index)


def nuts_datatree(found: NutsPosterior, images: Sequence[int] | None = None) -> "DataTree":
    """Draws from p(z|x) by NUTS in the groups and names that ArviZ's plots of chains take.

    `posterior` holds z, (chain, draw, image, ...); `sample_stats` what `plot_energy`, `plot_trace`
    and `plot_rank` look for: `energy`, `lp`, `diverging`, `acceptance_rate`, `n_steps` and
    `step_size`, (chain, draw, image).

    Args:
        found: The draws.
        images: The coordinate `image` of each datum; 0, ..., B - 1 by default.
    """
    needs_arviz()
    stats = {
        "energy": found.energy,
        "lp": found.log_joint,
        "diverging": found.diverging,
        "acceptance_rate": found.acceptance,
        "n_steps": found.steps,
        "step_size": found.step_size[:, None].expand_as(found.energy),
    }
    arrays = {
        group: {name: value.cpu().numpy() for name, value in each.items()}
        for group, each in (("posterior", found.latents), ("sample_stats", stats))
    }
    index = np.arange(found.energy.shape[-1]) if images is None else np.asarray(images)
    shapes = {name: value.shape[3:] for name, value in found.latents.items()}
    return lay_out(arrays, shapes, {}, index, "NUTS on p(z|x)")


def loo_pit_datatree(tree: "DataTree") -> "DataTree":
    """The tree with the mean of each observed datum in place of it.

    ArviZ's `plot_loo_pit` takes one number for each likelihood; an image has many.

    Args:
        tree: As `to_datatree` gives.
    """
    from xarray import DataTree

    kept = ("image", "chain", "draw")
    groups = {name: tree[name].to_dataset() for name in ("posterior", "log_likelihood")}
    for name in ("observed_data", "posterior_predictive"):
        dataset = tree[name].to_dataset()
        groups[name] = dataset.mean([dim for dim in dataset.dims if dim not in kept])
    return DataTree.from_dict(groups)


def _observed(joint: Joint) -> Arrays:
    """What the model observes by site, (image, ...), of the type that draws of it are stored as."""
    with joint.trial():
        nodes = joint.observe()
    result = {}
    for name, (value, support) in nodes.items():
        small = value.min() >= 0 and _largest(support) <= 255
        result[name] = value.cpu().numpy().astype(np.uint8 if small else np.float32)
    return result


def _largest(support: Any) -> float:
    """The largest value of a support of finitely many whole numbers; infinity for any other."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    if not support.is_discrete:
        return float("inf")
    if support is torch.distributions.constraints.boolean:
        return 1.0
    return float(torch.as_tensor(getattr(support, "upper_bound", torch.inf)).max())


def _empty(joint: Joint, particles: int, events: Mapping[str, Sequence[int]]) -> Arrays:
    shapes = {name: (particles, len(joint), *event) for name, event in events.items()}
    return {name: np.empty(shape, np.float32) for name, shape in shapes.items()}


def _inferred(joint: Joint, particles: int, few: int, advance: Callable[[int], None]) -> Values:
    """The groups of z ~ q(z|x); the likelihoods of as many draws as there are predictive ones."""
    observed = joint.structure.observed
    posterior = _empty(joint, particles, joint.sites)
    stats = _empty(joint, particles, dict.fromkeys(LOGARITHMS, ()))
    log_likelihoods = _empty(joint, few, dict.fromkeys(observed, ()))
    for rows, start, count in joint.pieces(particles):
        part = joint[rows]
        latents, log_guide = part.draw(count)
        log_prior, log_likelihood = part.log_terms(latents)
        log_joint = log_prior + log_likelihood
        logarithms = (log_prior, log_joint, log_guide, log_joint - log_guide)
        each = dict.fromkeys(observed, log_likelihood)
        if len(observed) > 1:
            each = part.log_likelihoods(latents)
        for group, values in (
            (posterior, latents),
            (stats, dict(zip(LOGARITHMS, logarithms, strict=True))),
            (log_likelihoods, each),
        ):
            for name, value in values.items():
                target = group[name][start : start + count, rows]
                target[:] = value[: len(target)].cpu().numpy()
        advance(log_guide.numel())
    return {"posterior": posterior, "sample_stats": stats, "log_likelihood": log_likelihoods}


def _predicted(joint: Joint, observed: Arrays, particles: int, posterior: Arrays) -> Values:
    """The groups of x ~ p(x|z), for z from the prior and for the first z from the guide."""
    prior = _empty(joint, particles, joint.sites)
    by_prior, by_guide = (
        {name: np.empty((particles, *value.shape), value.dtype) for name, value in observed.items()}
        for _ in range(2)
    )
    for rows, start, count in joint.pieces(particles):
        part, chosen = joint[rows], slice(start, start + count)
        drawn = part.generate(count)
        known = {
            site: torch.as_tensor(z[chosen, rows]).to(drawn[site]) for site, z in posterior.items()
        }
        given = part.generate(count, known)
        for source, group in ((drawn, prior), (drawn, by_prior), (given, by_guide)):
            for name, target in group.items():
                target[chosen, rows] = source[name].cpu().numpy()
    return {"prior": prior, "prior_predictive": by_prior, "posterior_predictive": by_guide}
