"""log p(x, z) and log q(z|x) of any Pyro pair, per datum, at a given z."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from models import Model
from models.ranges import check_count
from ppl_vae.densities.sites import (
    Batch,
    Latents,
    Nodes,
    Program,
    as_batch,
    log_density,
    sample_sites,
    summed_out,
)
from ppl_vae.densities.structure import Structure
from ppl_vae.errors import InputError
from ppl_vae.machine.memory import Allocations, memory_bound
from ppl_vae.machine.randomness import isolated

__all__ = ["Batch", "Joint", "Latents", "Program"]

Draw = Callable[[slice, int], tuple[Latents, Tensor]]

_FEW = 10  # data that show which sites a pair has


@dataclass(frozen=True)
class Joint:
    """A model/guide pair with its data, as functions of the latents.

    The pair is any two Pyro programs `model(*batch)` and `guide(*batch)` with one plate over the
    data at dim -1, continuous latents that the two share, and whatever the model observes. Further
    batch dimensions of the latents stand to the left of the plate. Discrete sites that are marked
    `infer={"enumerate": "parallel"}` are summed out, also of the guide. Masks count; scales do not.

    Attributes:
        model: p(x, z).
        guide: q(z|x).
        batch: What the programs are called with; the first is x, (B, ...).
        structure: The sites of the pair.
        memory_bytes: Bound on the temporaries of one pass; by the device unless given.
        bytes_per_row: What a datum with one z takes of it.
        priors: The distribution at each latent site, for one datum.
        as_one: Whether all data are one datum; B is 1 then, and events begin with the plate.
        place: Which of `everything` these are, (B,), for a guide with parameters for each datum.
        everything: All data, for such a guide.
    """

    model: Program
    guide: Program
    batch: Batch
    structure: Structure = field(default_factory=Structure)
    memory_bytes: int | None = None
    bytes_per_row: int = 1
    priors: dict[str, Any] = field(default_factory=dict)
    as_one: bool = False
    place: Tensor | None = None
    everything: Batch = ()

    @classmethod
    def of(
        cls,
        model: Program,
        guide: Program,
        x: Tensor | Batch,
        memory_bytes: int | None = None,
        as_one: bool = False,
    ) -> "Joint":
        """Runs the two programs, and refuses a pair that does not fit.

        Args:
            model: p(x, z).
            guide: q(z|x).
            x: Images (B, ...), or a tuple of all that the programs take.
            memory_bytes: Bound on the temporaries of one pass; by the device unless given.
            as_one: Whether all data count as one datum, as shared latents and most of Pyro's
                autoguides need.

        Raises:
            ValueError: If the latent sites differ, one is not per datum, is discrete or has no
                density, nothing is observed, or the data are none that the model is for.
        """
        joint = cls(model, guide, as_batch(x), memory_bytes=memory_bytes, as_one=as_one)
        if isinstance(model, Model):
            model.check_batch(*joint.batch)
        with joint.trial():
            some = joint[:_FEW]
            if not joint._guide_follows():
                place = torch.arange(len(joint), device=joint.batch[0].device)
                some = joint = replace(joint, place=place, everything=joint.batch)
            joint = replace(joint, structure=Structure.of(model, guide, some.batch, as_one))
            part = joint[:1]
            latents, log_guide = part.draw(1)
            with Allocations() as allocations:
                terms = part.log_terms(latents)
            if any(term.shape != (1, 1) for term in (log_guide, *terms)):
                raise InputError(
                    "expected one log-probability for one datum; got more: a mask of all data in "
                    "the programs? Hand it over with the data, x = (images, mask)"
                )
            nodes, _ = part.model_sites(latents)
            priors = {name: nodes[name]["fn"] for name in joint.sites}
            joint = replace(joint, priors=priors, bytes_per_row=max(1, allocations.total))
            joint._check_auxiliary()
        return joint

    def __len__(self) -> int:
        return 1 if self.as_one else len(self.batch[0])

    def __getitem__(self, rows: Any) -> "Joint":
        """The pair with some of the data: a slice or an index tensor."""
        if self.as_one:
            return self
        place = None if self.place is None else self.place[rows]
        return replace(self, batch=tuple(part[rows] for part in self.batch), place=place)

    @property
    def sites(self) -> dict[str, torch.Size]:
        """The latent sites with their event shapes, in the model's order."""
        return self.structure.sites

    @property
    def summed(self) -> tuple[str, ...]:
        """The discrete sites that are summed out."""
        return self.structure.summed

    def draw(self, particles: int) -> tuple[Latents, Tensor]:
        """z_1, ..., z_K from q(z|x), each site (K, B, ...), and log q(z_k|x), (K, B) in nats."""
        nodes = self._run_guide(particles)
        latents = self._values(nodes, self.sites, particles, len(self._guide_batch[0]))
        if self.place is not None:
            latents = {name: value[:, self.place] for name, value in latents.items()}
        if self.structure.in_guide:  # the class was drawn; its share of the density is all classes'
            return latents, self.log_guide(latents)
        return latents, self._log_guide(nodes, particles)

    def generate(self, particles: int, latents: Latents | None = None) -> Latents:
        """Draws from p(z) p(x|z), or from p(x|z) at latents (K, B, ...): all sites by name."""
        program = poutine.uncondition(self.model)
        if latents is not None:
            program = poutine.condition(program, data=self._inside(latents))
        nodes = self._run(program, self.batch, particles)
        names = [*self.sites, *self.structure.observed]
        return self._values(nodes, names, particles, len(self.batch[0]))

    def observe(self) -> dict[str, tuple[Tensor, Any]]:
        """What the model observes, by site: the value, (B, ...), and the support."""
        nodes, _ = self.model_sites(self.draw(1)[0])
        names = self.structure.observed
        values = self._values(nodes, names, 1, len(self.batch[0]))
        return {name: (values[name][0], nodes[name]["fn"].support) for name in names}

    def log_terms(self, latents: Latents) -> tuple[Tensor, Tensor]:
        """log p(z) and log p(x|z), each (K, B) in nats, at latents (K, B, ...).

        Where the model observes more than x, the second is of all that it observes.
        """
        nodes, particles = self.model_sites(latents)
        given = (*self.sites, *self.summed)
        return self._terms(nodes, [name for name in nodes if name not in given], particles)

    def log_likelihoods(self, latents: Latents) -> Latents:
        """log p(x|z) of each observed site x alone, (K, B) in nats."""
        nodes, particles = self.model_sites(latents)
        return {name: self._terms(nodes, [name], particles)[1] for name in self.structure.observed}

    def model_sites(self, latents: Latents) -> tuple[Nodes, int]:
        """The model's sites at latents (K, B, ...), and K; summed ones have values at dim -3."""
        program = poutine.condition(self.model, data=self._inside(latents))
        particles = len(next(iter(latents.values())))
        return self._run(program, self.batch, particles, bool(self.summed)), particles

    def log_guide(self, latents: Latents) -> Tensor:
        """log q(z|x), (K, B) in nats, at latents (K, B, ...)."""
        particles, size = next(iter(latents.values())).shape[:2]
        if self.place is not None:  # the rows of other data may hold any latents
            row = self.place.new_zeros(len(self.everything[0]))
            row[self.place] = torch.arange(size, device=row.device)
            latents = {name: value[:, row] for name, value in latents.items()}
        given = self.structure.in_the_guide(self._inside(latents), self.priors)
        return self._log_guide(self._run_guide(particles, given), particles)

    @torch.no_grad()
    def log_weights(self, particles: int, draw: Draw | None = None) -> Tensor:
        """log p(x, z_k) - log q(z_k|x), z_k ~ q(z|x), (K, B) in nats, float64; in pieces.

        `draw(rows, K)` draws from another q, as `self[rows].draw(K)` does from the guide.

        Raises:
            ValueError: If particles < 1.
        """
        check_count("particles", particles)
        result = self.batch[0].new_zeros(particles, len(self), dtype=torch.float64)
        for rows, start, size in self.pieces(particles):
            latents, log_guide = draw(rows, size) if draw else self[rows].draw(size)
            log_prior, log_likelihood = self[rows].log_terms(latents)
            result[start : start + size, rows] = (log_prior + log_likelihood - log_guide).double()
        return result

    def rows(self, copies: int = 1) -> int:
        """How many data one pass may take with `copies` of each."""
        bound = self.memory_bytes or memory_bound(self.batch[0].device)
        return max(1, bound // (self.bytes_per_row * copies))

    def slices(self, copies: int) -> Iterator[slice]:
        """Cuts the data into passes below the bound with `copies` of each."""
        rows = self.rows(copies)
        for first in range(0, len(self), rows):
            yield slice(first, min(first + rows, len(self)))

    def pieces(self, particles: int) -> Iterator[tuple[slice, int, int]]:
        """Cuts (K, B) into passes below the bound: the data, the first particle, how many."""
        size = min(particles, self.rows())
        for rows in self.slices(size):
            for start in range(0, particles, size):
                yield rows, start, min(size, particles - start)

    @contextmanager
    def trial(self) -> Iterator[None]:
        """Runs of the programs that leave no trace: no gradients, random states as they were."""
        modules = [p for p in (self.model, self.guide) if isinstance(p, nn.Module)]
        with torch.no_grad(), isolated(self.batch[0].device, *modules):
            yield

    @property
    def _guide_batch(self) -> Batch:
        return self.batch if self.place is None else self.everything

    def _run(self, program: Program, batch: Batch, particles: int, each: bool = False) -> Nodes:
        """The sample sites; `each` value of a discrete site stands at dim -3."""
        if not each:
            with pyro.validation_enabled(False):
                return sample_sites(program, batch, particles)

        def mark(site: Any) -> Any:
            return {"enumerate": "parallel"} if site["name"] in self.summed else {}

        with poutine.enum(first_available_dim=-3):
            return self._run(poutine.infer_config(program, mark), batch, particles)

    def _run_guide(self, particles: int, given: Latents | None = None) -> Nodes:
        if given is None:
            return self._run(self.guide, self._guide_batch, particles)
        program = poutine.condition(self.guide, data=given)
        return self._run(program, self._guide_batch, particles, bool(self.structure.in_guide))

    def _values(self, nodes: Nodes, names: Iterable[str], particles: int, size: int) -> Latents:
        """Values of sites, (K, B, ...)."""
        result = {}
        for name in names:
            fn, value = nodes[name]["fn"], nodes[name]["value"]
            plate = fn.batch_shape[-1:] if self.as_one else (size,)
            value = value.expand(particles, *plate, *fn.event_shape)
            result[name] = value[:, None] if self.as_one else value
        return result

    def _inside(self, latents: Latents) -> Latents:
        """Latents as the programs have them."""
        return {name: z[:, 0] for name, z in latents.items()} if self.as_one else latents

    def _terms(
        self, nodes: Nodes, observed: Iterable[str], particles: int
    ) -> tuple[Tensor, Tensor]:
        """log p(z) and log p(x|z) of some observed sites, each (K, B)."""
        shape = (particles, len(self))
        log_prior = self._log_density(nodes, (*self.sites, *self.summed), shape)
        log_likelihood = self._log_density(nodes, observed, shape)
        return summed_out(log_prior, log_likelihood) if self.summed else (log_prior, log_likelihood)

    def _log_density(self, nodes: Nodes, names: Iterable[str], shape: tuple[int, int]) -> Tensor:
        with pyro.validation_enabled(False):
            if not self.as_one:
                return log_density(nodes, names, shape)
            each = [log_density(nodes, [name], shape).sum(-1, keepdim=True) for name in names]
        return torch.stack(each).sum(0)

    def _log_guide(self, nodes: Nodes, particles: int) -> Tensor:
        shape = (particles, len(self) if self.place is None else len(self.everything[0]))
        names = [*self.sites, *(name for name in nodes if name not in self.sites)]
        log_guide = self._log_density(nodes, names, shape)
        if log_guide.dim() > 2:
            log_guide = log_guide.flatten(0, -3).logsumexp(0)
        return log_guide if self.place is None else log_guide[:, self.place]

    def _guide_follows(self) -> bool:
        """Whether the guide, called with a datum, draws the latents of that datum alone."""
        if len(self) == 1:
            return True
        try:
            nodes = self._run(self.guide, self[:1].batch, 1)
        except (RuntimeError, ValueError):
            return False
        return all(node["fn"].batch_shape[-1] == 1 for node in nodes.values())

    def _check_auxiliary(self) -> None:
        """Refuses auxiliary sites that are more than the latents without constraints."""
        if not self.structure.auxiliary:
            return
        why = ""
        latents, log_guide = self.draw(2)
        try:
            same = torch.allclose(self.log_guide(latents), log_guide, rtol=1e-3, atol=1e-2)
        except (RuntimeError, IndexError) as error:
            same, why = False, f" ({str(error).splitlines()[0]})"
        if not same:
            raise InputError(
                "the density of the latents does not follow from the guide's auxiliary sites "
                f"{sorted(self.structure.auxiliary)}{why}; expected each to hold the unconstrained "
                "values of the latents that are sampled after it, as in Pyro's autoguides"
            )
