"""The sites of a model/guide pair, and the part of each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro import poutine
from torch.distributions import biject_to
from torch.distributions.transforms import Transform

from models.corruptions.pixels import DependentPixels
from ppl_vae.densities.sites import Batch, Latents, Nodes, Program, sample_sites
from ppl_vae.errors import InputError, reason

__all__ = ["Auxiliary", "Structure", "bijection"]


@dataclass(frozen=True)
class Auxiliary:
    """A site of the guide that holds latents without constraints, as in Pyro's autoguides.

    Attributes:
        latents: The latent sites, whose unconstrained values one after the other are its value.
        shared: Whether it is outside of the plate over the data.
        event: Its event shape.
    """

    latents: tuple[str, ...]
    shared: bool
    event: torch.Size


@dataclass(frozen=True)
class Structure:
    """The sites of a pair.

    Attributes:
        sites: The latent sites with their event shapes, in the model's order.
        summed: The discrete sites that are summed out.
        in_guide: Those of them that the guide has.
        observed: The observed sites, factors left out.
        auxiliary: The auxiliary sites of the guide.
    """

    sites: dict[str, torch.Size] = field(default_factory=dict)
    summed: tuple[str, ...] = ()
    in_guide: tuple[str, ...] = ()
    observed: tuple[str, ...] = ()
    auxiliary: dict[str, Auxiliary] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Program, guide: Program, batch: Batch, as_one: bool) -> "Structure":
        """Runs the two programs for two draws, and refuses a pair that does not fit."""
        drawn = _run("guide", guide, batch, as_one)
        free = [name for name in drawn if not drawn[name]["is_observed"]]
        in_guide = tuple(name for name in free if _is_marked(drawn[name]))
        auxiliary = [name for name in free if drawn[name]["infer"].get("is_auxiliary")]
        latents = [name for name in free if name not in (*in_guide, *auxiliary)]
        for name in latents:
            _check_latent(name, drawn[name])
        size = None if as_one else len(batch[0])
        for name in free:
            _check_per_datum(name, drawn[name], size)
        given = {name: drawn[name]["value"] for name in latents}
        nodes = _run("model", poutine.condition(model, data=given), batch, as_one)
        left = [name for name in nodes if not nodes[name]["is_observed"]]
        summed = tuple(name for name in left if name in in_guide or _is_marked(nodes[name]))
        left = [name for name in left if name not in summed]
        known = [name for name in latents if name in nodes]
        if left or len(known) < len(latents) or not {*in_guide} <= {*summed}:
            raise InputError(
                "expected the guide to sample exactly the model's latent sites; the guide samples "
                f"{sorted(latents)}, the model {sorted([*left, *known])}"
            )
        observed = [name for name in nodes if name not in (*latents, *summed)]
        if not latents or not observed:
            what = "latent site" if not latents else "observed site"
            raise InputError(f"expected a pair with a {what}; got none (obs=x in the model?)")
        if as_one and summed:
            raise InputError(
                f"the discrete site {summed[0]!r} is summed out datum by datum; leave as_one out"
            )
        for name in nodes:
            _check_per_datum(name, nodes[name], size)
        sites = {}
        for name in nodes:
            if name in latents:
                shape = nodes[name]["fn"].shape()
                sites[name] = shape[1:] if as_one else shape[2:]
        # `pyro.factor` has a log-density and no value.
        values = tuple(name for name in observed if type(nodes[name]["fn"]).__name__ != "Unit")
        return cls(sites, summed, in_guide, values, _auxiliary(drawn, auxiliary, latents))

    def in_the_guide(self, latents: Latents, priors: Mapping[str, Any]) -> Latents:
        """What the guide is conditioned on to have these latents: its auxiliary sites' values.

        Args:
            latents: By site, (K, B, ...).
            priors: The distribution at each latent site.
        """
        result = dict(latents)
        for name, auxiliary in self.auxiliary.items():
            parts = [
                bijection(site, priors[site]).inv(result.pop(site)) for site in auxiliary.latents
            ]
            particles, size = len(parts[0]), 1 if auxiliary.shared else parts[0].shape[1]
            whole = torch.cat([part.reshape(particles, size, -1) for part in parts], -1)
            result[name] = whole.reshape(particles, size, *auxiliary.event)
        return result


def bijection(name: str, distribution: Any) -> Transform:
    """The standard bijection from the real numbers onto the support of a site's prior.

    Raises:
        InputError: If none is known.
    """
    try:
        support = distribution.support
        return biject_to(getattr(support, "base_constraint", support))
    except NotImplementedError as error:
        raise InputError(
            f"the support of site {name!r} ({type(distribution).__name__}) has no known bijection "
            "from the real numbers"
        ) from error


def _run(which: str, program: Program, batch: Batch, as_one: bool) -> Nodes:
    try:
        return sample_sites(program, batch, 2)
    except InputError:
        raise
    except DependentPixels as error:
        raise InputError(f"{reason(error)}; choose --likelihood DiscretizedLogistic") from error
    except (RuntimeError, ValueError) as error:
        remedy = (
            "expect latents (K, 1, ...) for K draws, as (w * x).sum(-1) and torch.matmul can, and "
            "nn.Linear with a drawn weight cannot"
            if as_one
            else "put latents and data into one plate at dim -1, and all other dimensions into "
            "to_event"
        )
        raise InputError(
            f"the {which} does not run with draws as one more batch dimension at dim -2: "
            f"{str(error).splitlines()[0]}; {remedy}"
        ) from error


def _is_marked(node: dict[str, Any]) -> bool:
    return node["infer"].get("enumerate") == "parallel"


def _auxiliary(drawn: Nodes, names: list[str], latents: list[str]) -> dict[str, Auxiliary]:
    """Each auxiliary site with the latents that the guide samples after it, before the next."""
    found: dict[str, Auxiliary] = {}
    name = None
    for site, node in drawn.items():
        if site in names:
            name, fn = site, node["fn"]
            found[name] = Auxiliary((), fn.batch_shape[-1] == 1, fn.event_shape)
        elif site in latents and name is not None and type(node["fn"]).__name__ == "Delta":
            before = found[name]
            found[name] = Auxiliary((*before.latents, site), before.shared, before.event)
    return found


def _check_latent(name: str, node: dict[str, Any]) -> None:
    fn, value = node["fn"], node["value"]
    while hasattr(fn, "base_dist") and type(fn).__name__ in ("Independent", "MaskedDistribution"):
        fn = fn.base_dist
    # In an autoguide a latent is a function of an auxiliary site's draw: its two draws differ.
    if type(fn).__name__ == "Delta" and torch.equal(value[0], value[-1]):
        raise InputError(
            f"the guide's site {name!r} is a point mass (Delta), which has no density: importance "
            "weights do not exist; choose a guide with a density"
        )
    if not value.is_floating_point():
        raise InputError(
            f"the guide's site {name!r} is discrete ({type(fn).__name__}); this works for "
            "continuous latents; marked infer={'enumerate': 'parallel'}, it is summed out"
        )


def _check_per_datum(name: str, node: dict[str, Any], size: int | None) -> None:
    """Checks the log-probabilities of two draws; `size` is None where all data count as one."""
    shape = tuple(node["fn"].log_prob(node["value"]).shape)
    if shape == (2, size) or (size is None and len(shape) == 2):
        return
    if size is not None and len(shape) == 2 and shape[1] != 1:
        raise InputError(
            f"expected site {name!r} for {size} data; got it for {shape[1]}: the program has "
            "parameters for each of the data that it was trained with; call it with those"
        )
    expected = "(2,) or (2, B)" if size is None else f"(2, {size})"
    raise InputError(
        f"expected log-probabilities of site {name!r} per datum, {expected} for two draws; got "
        f"{shape}; put it into the plate over the data at dim -1 and use to_event, or, where the "
        "data share it, take them as one datum: Joint.of(model, guide, x, as_one=True)"
    )
