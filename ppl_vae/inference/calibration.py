"""Is the guide calibrated? Simulation-based calibration on data drawn from the model."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ppl_vae.densities.joint import Joint
from ppl_vae.densities.sites import Batch, Program
from ppl_vae.errors import InputError
from ppl_vae.inference.simulation import simulate

__all__ = ["Calibration", "simulation_based_calibration"]


@dataclass(frozen=True)
class Calibration:
    """Ranks of true latents among draws from the guide.

    Attributes:
        ranks: By latent site, (N, ...), int64 in 0, ..., L: how many of L draws lie below the
            truth.
        counts: By latent site, (bins, ...): the histograms of the ranks.
        p_value: By latent site, (...): of the chi-square test that ranks are uniform.
        draws: L.
        band: The smallest and largest count that one bin would have if ranks were uniform, so
            that all bins of one histogram stay inside together with probability `level`.
        level: See there.
    """

    ranks: dict[str, Tensor]
    counts: dict[str, Tensor]
    p_value: dict[str, Tensor]
    draws: int
    band: tuple[int, int]
    level: float


@torch.no_grad()
def simulation_based_calibration(
    model: Program,
    guide: Program,
    *,
    data_points: int = 1000,
    draws: int = 99,
    bins: int = 20,
    level: float = 0.95,
    like: Tensor | Batch | None = None,
    memory_bytes: int | None = None,
    advance: Callable[[int], None] = lambda data: None,
) -> Calibration:
    """Draws (z, x) from p(x, z) and ranks each z_d among draws from q(z|x).

    If q(z|x) is the posterior, ranks are uniform on 0, ..., L; a histogram with its mass at both
    ends shows a guide that is too narrow, one with a hump a guide that is too wide, a slope a
    bias. Talts, Betancourt, Simpson, Vehtari and Gelman, Validating Bayesian Inference Algorithms
    with Simulation-Based Calibration, 2018, theorem 1. The band is that of binomial counts with
    Bonferroni's correction over the bins.

    Args:
        model: p(x, z).
        guide: q(z|x); amortized, for it meets data that nobody trained on.
        data_points: N, how many to draw.
        draws: L, of the guide for each; L + 1 a multiple of the bins.
        bins: Of the histograms.
        level: Probability that a whole histogram of uniform ranks stays in the band.
        like: Data that give the shapes, for a model that does not take `size`; see `simulate`.
        memory_bytes: Bound on the temporaries of one pass; by the device unless given.
        advance: Called with the number of data that are done.

    Raises:
        InputError: If a number is out of range, or the pair has no common continuous latents.
    """
    from scipy.stats import binom, chi2

    if bins < 2 or draws < 1 or (draws + 1) % bins:
        raise InputError(
            f"expected draws + 1 to be a multiple of bins >= 2; got {draws} draws, {bins} bins"
        )
    if data_points < 5 * bins:
        raise InputError(f"expected data_points >= {5 * bins}, five a bin; got {data_points}")
    if not 0 < level < 1:
        raise InputError(f"expected 0 < level < 1; got {level}")
    batch, _ = simulate(model, 2, like)
    joint = Joint.of(model, guide, batch, memory_bytes)
    at_once = joint.rows()
    ranks: dict[str, list[Tensor]] = {name: [] for name in joint.sites}
    for first in range(0, data_points, at_once):
        batch, truth = simulate(model, min(at_once, data_points - first), like)
        part = replace(joint, batch=batch)
        below = {name: torch.zeros_like(truth[name], dtype=torch.long) for name in joint.sites}
        size = max(1, at_once // len(part))
        for start in range(0, draws, size):
            latents, _ = part.draw(min(size, draws - start))
            for name in below:
                below[name] += (latents[name] < truth[name]).sum(0)
        for name, value in below.items():
            ranks[name].append(value)
        advance(len(part))
    joined = {name: torch.cat(values) for name, values in ranks.items()}
    width = (draws + 1) // bins
    counts = {
        name: torch.stack([(value // width == index).sum(0) for index in range(bins)])
        for name, value in joined.items()
    }
    expected = data_points / bins
    p_value = {
        name: torch.as_tensor(
            chi2.sf(((value - expected) ** 2 / expected).sum(0).cpu().numpy(), bins - 1)
        )
        for name, value in counts.items()
    }
    low, high = binom.interval(1 - (1 - level) / bins, data_points, 1 / bins)
    return Calibration(joined, counts, p_value, draws, (int(low), int(high)), level)
