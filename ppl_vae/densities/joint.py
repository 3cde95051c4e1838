"""log p(x, z) and log q(z|x) of any Pyro pair with local latents, per datum, at a given z."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from inspect import signature
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor, nn

from ppl_vae.errors import InputError
from ppl_vae.machine.memory import MEMORY_BYTES, Allocations
from ppl_vae.machine.randomness import isolated

__all__ = [
    "Batch",
    "Joint",
    "Latents",
    "Program",
    "as_batch",
    "simulate",
    "summed_out",
]

Program = Callable[..., Any]
Batch = tuple[Tensor, ...]
Latents = dict[str, Tensor]


def as_batch(x: Tensor | Batch) -> Batch:
    """The arguments of the programs: images alone, or a tuple of them and what comes with them."""
    return (x,) if isinstance(x, Tensor) else x


@dataclass(frozen=True)
class Joint:
    """A model/guide pair with its data, as functions of the latents.

    The pair is any two Pyro programs `model(*batch)` and `guide(*batch)` with one plate over the
    data at dim -1, continuous latents that the two share, and whatever the model observes. Further
    batch dimensions of the latents stand to the left of the plate. Discrete sites of the model,
    marked `infer={"enumerate": "parallel"}`, that the guide leaves out are summed out. Numbers are
    of the single datum: scales of plates and of `poutine.scale` are left out.

    Attributes:
        model: p(x, z).
        guide: q(z|x).
        batch: What the programs are called with; the first is x, (B, ...).
        sites: The latent sites with their event shapes, in the model's order.
        summed: The discrete sites that are summed out.
    """

    model: Program
    guide: Program
    batch: Batch
    sites: dict[str, torch.Size] = field(default_factory=dict)
    summed: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: Program, guide: Program, x: Tensor | Batch) -> "Joint":
        """Runs the two programs once, and says what does not fit.

        Args:
            model: p(x, z).
            guide: q(z|x).
            x: Images (B, ...), or a tuple of all that the programs take.

        Raises:
            InputError: If the latent sites differ, one is not per datum, is discrete or has no
                density, or nothing is observed.
        """
        joint = cls(model, guide, as_batch(x))
        modules = [program for program in (model, guide) if isinstance(program, nn.Module)]
        with torch.no_grad(), isolated(joint.batch[0].device, *modules):
            guide_sites = joint._trace(guide)
            latents = {name: node["value"] for name, node in guide_sites.items()}
            model_sites = joint._trace(poutine.condition(model, data=latents))
        free = {name for name in model_sites if not model_sites[name]["is_observed"]}
        summed = tuple(
            name
            for name, node in model_sites.items()
            if name in free and node["infer"].get("enumerate") == "parallel"
        )
        free.difference_update(summed)
        observed = [name for name in model_sites if name not in (*latents, *summed)]
        if free or not latents.keys() <= model_sites.keys():
            raise InputError(
                "expected the guide to sample exactly the model's latent sites; the guide samples "
                f"{sorted(latents)}, the model {sorted(free | latents.keys() & model_sites.keys())}"
            )
        if not latents or not observed:
            what = "latent site" if not latents else "observed site"
            raise InputError(f"expected a pair with a {what}; got none (obs=x in the model?)")
        for name, node in [*guide_sites.items(), *model_sites.items()]:
            _check_site(name, node, len(joint), name in latents)
        shapes = {
            name: model_sites[name]["value"].shape[1:] for name in model_sites if name in latents
        }
        return cls(model, guide, joint.batch, shapes, summed)

    def __len__(self) -> int:
        return len(self.batch[0])

    def __getitem__(self, rows: Any) -> "Joint":
        """The pair with some of the data: a slice or an index tensor."""
        return replace(self, batch=tuple(part[rows] for part in self.batch))

    def draw(self, particles: int) -> tuple[Latents, Tensor]:
        """z_1, ..., z_K from q(z|x), each site (K, B, ...), and log q(z_k|x), (K, B) in nats."""
        nodes = self._trace(self.guide, particles)
        shape = (particles, len(self))
        latents = {
            name: nodes[name]["value"].expand(*shape, *event) for name, event in self.sites.items()
        }
        return latents, self._log_density(nodes, self.sites, shape)

    def log_terms(self, latents: Latents) -> tuple[Tensor, Tensor]:
        """log p(z) and log p(x|z), each (K, B) in nats, at latents (K, B, ...).

        Where the model observes more than x, the second is of all that it observes.
        """
        shape = self._shape(latents)
        with poutine.enum(first_available_dim=-3):
            nodes = self._trace(poutine.condition(self.model, data=latents), shape[0])
        given = (*self.sites, *self.summed)
        log_prior = self._log_density(nodes, given, shape)
        observed = [name for name in nodes if name not in given]
        log_likelihood = self._log_density(nodes, observed, shape)
        return summed_out(log_prior, log_likelihood) if self.summed else (log_prior, log_likelihood)

    def log_guide(self, latents: Latents) -> Tensor:
        """log q(z|x), (K, B) in nats, at latents (K, B, ...)."""
        shape = self._shape(latents)
        nodes = self._trace(poutine.condition(self.guide, data=latents), shape[0])
        return self._log_density(nodes, self.sites, shape)

    @torch.no_grad()
    def log_weights(self, particles: int, memory_bytes: int = MEMORY_BYTES) -> Tensor:
        """log p(x, z_k) - log q(z_k|x), z_k ~ q(z|x), (K, B) in nats, float64; in pieces."""
        result = self.batch[0].new_zeros(particles, len(self), dtype=torch.float64)
        for rows, start, size in self.pieces(particles, memory_bytes):
            part = self[rows]
            latents, log_guide = part.draw(size)
            log_prior, log_likelihood = part.log_terms(latents)
            result[start : start + size, rows] = (log_prior + log_likelihood - log_guide).double()
        return result

    def pieces(
        self, particles: int, memory_bytes: int = MEMORY_BYTES
    ) -> Iterator[tuple[slice, int, int]]:
        """Cuts (K, B) into passes below the bound: the data, the first particle, how many."""
        rows = self.rows(memory_bytes)
        size = min(particles, rows)
        width = max(1, rows // size)
        for first in range(0, len(self), width):
            for start in range(0, particles, size):
                piece = slice(first, min(first + width, len(self)))
                yield piece, start, min(size, particles - start)

    def rows(self, memory_bytes: int = MEMORY_BYTES) -> int:
        """How many pairs of a datum and a z one pass may take, measured on one of them."""
        part = self[:1]
        modules = [
            program for program in (self.model, self.guide) if isinstance(program, nn.Module)
        ]
        with torch.no_grad(), isolated(self.batch[0].device, *modules):
            latents, _ = part.draw(1)
            with Allocations() as allocations:
                part.log_terms(latents)
        return max(1, memory_bytes // max(1, allocations.total))

    def _trace(self, program: Program, particles: int | None = None) -> dict[str, Any]:
        """The sample sites of a program, by name; with particles at dim -2 where they are given."""
        if particles is not None:
            program = pyro.plate("particles", particles, dim=-2)(program)
        with pyro.validation_enabled(False):
            trace = prune_subsample_sites(poutine.trace(program).get_trace(*self.batch))
        return {name: node for name, node in trace.nodes.items() if node["type"] == "sample"}

    def _log_density(self, nodes: dict[str, Any], names: Any, shape: tuple[int, int]) -> Tensor:
        """The sum over sites, (K, B), or (Y, K, B) where it depends on a discrete site."""
        with pyro.validation_enabled(False):
            terms = [
                scale_and_mask(node["fn"].log_prob(node["value"]), 1.0, node["mask"])
                for node in (nodes[name] for name in names)
            ]
        whole = torch.broadcast_shapes(shape, *(term.shape for term in terms))
        return torch.stack([term.expand(whole) for term in terms]).sum(0)

    def _shape(self, latents: Latents) -> tuple[int, int]:
        particles, size = next(iter(latents.values())).shape[:2]
        return particles, size


def summed_out(log_prior: Tensor, log_likelihood: Tensor) -> tuple[Tensor, Tensor]:
    """log p(z) and log p(x|z), (K, B), from log p(y, z) and log p(x|y, z), over all y."""
    marginal = log_prior.flatten(0, -3).logsumexp(0)
    if log_likelihood.dim() == 2:  # given z, the image does not depend on y
        return marginal, log_likelihood
    joint = (log_prior + log_likelihood).flatten(0, -3).logsumexp(0)
    return marginal, joint - marginal


def simulate(
    model: Program, size: int, like: Tensor | Batch | None = None
) -> tuple[Batch, Latents]:
    """Draws (x, z) from p(x, z).

    Args:
        model: Called as `model(size=...)` where it has such a parameter, else with data of the
            right shape whose observation is undone.
        size: How many to draw.
        like: Data that give shapes and types to a model without `size`, and whatever the programs
            take beside x, such as classes: row by row, from the first again where there are fewer.

    Returns:
        The data, to call the programs with, and the latents by site, (size, ...).

    Raises:
        InputError: If the model has no parameter `size` and `like` is not given.
    """
    if like is None:
        if "size" not in signature(getattr(model, "forward", model)).parameters:
            raise InputError(
                "expected a model that draws by itself, model(size=...), or data to take the "
                "shapes from; give like=x"
            )
        trace = poutine.trace(model).get_trace(size=size)
        batch: Batch = ()
    else:
        batch = as_batch(like)
        rows = torch.arange(size, device=batch[0].device) % len(batch[0])
        batch = tuple(part[rows] for part in batch)
        trace = poutine.trace(poutine.uncondition(model)).get_trace(*batch)
    nodes: dict[str, Any] = dict(prune_subsample_sites(trace).nodes)
    sampled = {name: node["value"] for name, node in nodes.items() if node["type"] == "sample"}
    if "x" not in sampled:
        raise InputError(f"expected a model with the site 'x'; got the sites {sorted(sampled)}")
    return (sampled.pop("x"), *batch[1:]), sampled


def _check_site(name: str, node: dict[str, Any], size: int, latent: bool) -> None:
    fn = node["fn"]
    while hasattr(fn, "base_dist") and type(fn).__name__ in ("Independent", "MaskedDistribution"):
        fn = fn.base_dist
    if latent and type(fn).__name__ == "Delta":
        raise InputError(
            f"the guide's site {name!r} is a point mass (Delta), which has no density: importance "
            "weights do not exist; choose a guide with a density"
        )
    if latent and not node["value"].is_floating_point():
        raise InputError(
            f"the guide's site {name!r} is discrete ({type(fn).__name__}); this works for "
            "continuous latents; left out of the guide, and marked infer={'enumerate': 'parallel'} "
            "in the model, it is summed out"
        )
    with pyro.validation_enabled(False):
        shape = tuple(node["fn"].log_prob(node["value"]).shape)
    if shape != (size,):
        raise InputError(
            f"expected log-probabilities of site {name!r} per datum, shape ({size},); got {shape}; "
            "put it into the plate over the data at dim -1 and use to_event"
        )
