"""Every pair that fits: log p and log q are densities or masses, and the programs draw from them.

In one dimension a sum or an integral over a grid knows both, whatever the pieces are.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pyro
import pytest
import torch
from cases import CASES, COVERING, Case, Piece
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from models import MLP, MaxPooling, Spec, VampPrior

DRAWS = 2000
LARGEST = 2.5 / DRAWS**0.5  # of the Kolmogorov-Smirnov distance: one draw of 100,000 is larger
LATENT = torch.linspace(-8, 8, 65, dtype=torch.float64)  # a trapezoid sum of smooth densities


class _Small(Case):
    """The same pieces for images of one pixel and latents of one dimension."""

    @property
    def spec(self) -> Spec:
        return replace(super().spec, latent_dim=1)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (1, 1, 1) if self.likelihood else (1, 1, 2)


def _small(case: Case) -> _Small:
    network = Piece(partial(MLP, hidden=(5,)))  # type: ignore[arg-type]
    few = {"components": 5}
    prior = Piece(VampPrior, few) if case.prior and case.prior.kind is VampPrior else case.prior
    return _Small(case.model, case.guide, prior, case.likelihood, network)


def _cases(key: Callable[[Case], tuple]) -> list[Any]:
    """A case for each value of the key; those of a covering case always run."""
    always = {key(case) for case in COVERING}
    kept = {key(case): case for case in CASES if case.network.kind is not MaxPooling}
    return [
        pytest.param(
            _small(case),
            marks=() if name in always else pytest.mark.slow,
            id="_".join(str(part) for part in name if part),
        )
        for name, case in kept.items()
    ]


def _generative(case: Case) -> tuple:
    """What p(x, z) is made of; a VampPrior is made of the guide."""
    made = case.prior and case.prior.kind is VampPrior
    parts = (case.model, case.prior, case.likelihood, case.guide if made else None)
    return tuple(part and str(part) for part in parts)


def _inference(case: Case) -> tuple:
    """What q(z|x) depends on."""
    return str(case.model), str(case.guide), case.spec.domain


def _pixels(case: Case) -> tuple[Tensor, float]:
    """All images (N, 1, 1, C) of the domain, on a grid where it is continuous, and its cell."""
    match case.spec.domain:
        case "binary":
            values, cell = torch.tensor([0.0, 1.0]), 1.0
        case "bytes":
            values, cell = torch.arange(256.0), 1.0
        case "unit":  # the middles of the cells: the density ends at the edges
            values, cell = (torch.arange(100) + 0.5) / 100, 1 / 100
        case _:
            values = torch.linspace(-4, 4, 161)
            cell = (values[1] - values[0]).item()
    size = case.spec.pixels
    images = torch.cartesian_prod(*[values] * size).reshape(-1, 1, 1, size).double()
    return images, cell**size


def _log_density(
    program: Callable, batch: tuple[Tensor, ...], latents: dict[str, Tensor]
) -> Tensor:
    """The density of all that the program samples or observes, (K, B); a class is summed out."""
    particles = len(next(iter(latents.values())))
    with poutine.enum(first_available_dim=-3), pyro.plate("particles", particles, dim=-2):
        trace = poutine.trace(poutine.condition(program, data=latents)).get_trace(*batch)
    trace = prune_subsample_sites(trace)
    trace.compute_log_prob()
    terms = [site["log_prob"] for site in trace.nodes.values() if site["type"] == "sample"]
    zero = torch.zeros(1, particles, len(batch[0]), dtype=torch.float64)
    return sum(terms, zero).flatten(0, -3).logsumexp(0)


def _grid(names: tuple[str, ...], size: int) -> tuple[dict[str, Tensor], float]:
    """Every combination of the latents' grid, each site (K, size, 1), and the cell."""
    axis = LATENT if len(names) == 1 else LATENT[::2]
    values = torch.cartesian_prod(*[axis] * len(names)).reshape(-1, len(names))
    cell = (axis[1] - axis[0]).item() ** len(names)
    return {
        name: values[:, None, column, None].expand(-1, size, 1).contiguous()
        for column, name in enumerate(names)
    }, cell


def _distance(draws: Tensor, places: Tensor, masses: Tensor) -> float:
    """Kolmogorov and Smirnov's, of draws (N,) from masses at places in rising order, (M,)."""
    edges = places + (places[1] - places[0]) / 2
    empirical = torch.searchsorted(draws.sort().values, edges, right=True) / len(draws)
    return (empirical - masses.cumsum(0)).abs().max().item()


@pytest.mark.parametrize("case", _cases(_generative))
def test_log_p_is_normalised_and_draws_follow_it(case: _Small) -> None:
    model, _ = (program.double() for program in case.build())
    images, pixel_cell = _pixels(case)
    labels = (torch.full((len(images),), 3),) if model.labelled and not model.enumerated else ()
    latents, cell = _grid(model.latents, len(images))
    with torch.no_grad():
        drawn = model(None, labels[0][:1].expand(DRAWS)) if labels else model(size=DRAWS)
        masses = _log_density(model, (images, *labels), latents).exp().sum(0) * cell * pixel_cell
    if not model.has_prior:  # p(x|z) alone, at every z
        masses = masses / (len(LATENT) * cell)
    assert masses.sum().item() == pytest.approx(1, abs=2e-3)
    if not model.has_prior or case.spec.pixels > 1:
        return
    assert _distance(drawn.flatten(), images.flatten(), masses) < LARGEST


@pytest.mark.parametrize(
    "case", [c for c in _cases(_inference) if c.values[0].guide.kind.has_density]
)
def test_log_q_is_normalised_and_draws_follow_it(case: _Small) -> None:
    model, guide = (program.double() for program in case.build())
    x = case.data(3).double()
    labels = (torch.tensor([0, 1, 2]),) if model.labelled and not model.enumerated else ()
    latents, cell = _grid(guide.latents, len(x))
    torch.manual_seed(5)  # a guide may draw to find q(z|x): the same twice
    with torch.no_grad():
        masses = _log_density(guide, (x, *labels), latents).exp() * cell
    torch.testing.assert_close(masses.sum(0), torch.ones(3).double(), rtol=0, atol=2e-3)
    torch.manual_seed(5)
    with torch.no_grad(), pyro.plate("particles", DRAWS, dim=-2):
        trace = poutine.trace(guide).get_trace(x, *labels)
    name = guide.latents[-1]
    axis = latents[name][:, 0, 0].unique()
    for datum in range(3):
        marginal = torch.stack([masses[latents[name][:, 0, 0] == z, datum].sum() for z in axis])
        drawn: Any = trace.nodes[name]["value"]
        assert _distance(drawn[:, datum, 0], axis, marginal) < LARGEST
