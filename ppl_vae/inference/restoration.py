"""p(z|y) of corrupted images: a normal around the guide, then importance, NUTS or annealing."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from guides import Guide
from models import Model
from models.corruptions import Corruption
from models.ranges import check_choice, check_count
from ppl_vae.densities.joint import Joint
from ppl_vae.densities.sites import Latents, Nodes, trace_of
from ppl_vae.inference.ais import ais
from ppl_vae.inference.corrupted import CorruptedModel, Normals, normals_at
from ppl_vae.inference.crude_fill import crude_fill
from ppl_vae.inference.families import Family, Features
from ppl_vae.inference.gaps import fit_family
from ppl_vae.inference.nuts import nuts_posterior
from ppl_vae.inference.pareto import RELIABLE, log_mean, pareto_k

__all__ = [
    "MIXED",
    "Method",
    "RestoredLatents",
    "check_sampling",
    "corrupted_joint",
    "refined",
    "restore_latents",
]

Method = Literal["auto", "importance", "nuts", "annealing"]

MIXED = 1.05
"""The R-hat above which chains count as not mixed."""

_GUESSES = 200  # draws of the guide that the first normal comes from
_STEPS, _FIT_PARTICLES, _LEARNING_RATE = 600, 4, 0.05
_CHAINS, _WARMUP = 4, 200
_ANNEALED, _TEMPERATURES, _LEAPFROG_STEPS = 32, 200, 5


@dataclass(frozen=True)
class RestoredLatents:
    """Draws from p(z|y) of B images, and how far to trust them.

    Attributes:
        latents: By site, (S, B, D).
        method: By which method those of each image were made.
        log_likelihood: log p(y) in nats by importance sampling, (B,).
        standard_error: Of it, (B,).
        k_hat: Of the importance weights, (B,); above 0.7 they are not to be trusted.
        r_hat: The largest of all latents, (B,); NaN where NUTS was not used.
        ess: Effective number of draws, (B,): of the weights, or the smallest of NUTS.
    """

    latents: Latents
    method: list[str]
    log_likelihood: Tensor
    standard_error: Tensor
    k_hat: Tensor
    r_hat: Tensor
    ess: Tensor


@torch.no_grad()
def corrupted_joint(
    model: Model, guide: Guide, corruption: Corruption, y: Tensor, labels: Tensor | None = None
) -> Joint:
    """The pair p(z) p(y|z) and a normal q(z|y), which is the guide's q(z|x) at a crude fill.

    Args:
        model: p(x, z).
        guide: q(z|x), with a density.
        corruption: p(y|x), without unknown parameters.
        y: What is seen, (B, ...), in units of intensity; missing pixels NaN.
        labels: Of the images, (B,), where the model takes them.

    Raises:
        ValueError: If the guide is a point, or the corruption does not fit the likelihood.
    """
    guide.check_density("restoration")
    rest = () if labels is None else (labels,)
    filled = crude_fill(model, corruption, y)
    nodes: Nodes = dict(trace_of(guide, (filled, *rest), _GUESSES).nodes)
    start = normals_at({name: nodes[name]["value"] for name in model.latents})
    normals = Normals(model.latents, len(rest))
    return Joint.of(CorruptedModel(model, corruption), normals, (y, *rest, *start))


def refined(joint: Joint, steps: int = _STEPS) -> Joint:
    """The same with each normal, of any covariance, fitted to p(z|y) by its ELBO.

    As `gap_decomposition` fits the guide's family.
    """
    parts = []
    for rows in joint.slices(2 * _FIT_PARTICLES):
        part = joint[rows]
        family = _normals_of(part)
        fitted, _ = fit_family(part, family, steps, _FIT_PARTICLES, _LEARNING_RATE)
        every = torch.arange(len(part), device=part.batch[0].device)
        parts.append([each for name in part.sites for each in _normal(part, name, fitted, every)])
    features = [torch.cat(each) for each in zip(*parts, strict=True)]
    return replace(joint, batch=(*joint.batch[: -len(features)], *features))


def _normals_of(joint: Joint) -> Family:
    """All normal distributions, by mean and triangle in the coordinates of the first one."""
    features: Features = {}
    for name, (size,) in joint.sites.items():
        zeros = joint.batch[0].new_zeros(len(joint), size)
        features |= {f"{name}.loc": zeros, f"{name}.triangle": zeros.diag_embed()}

    def draw(features: Features, rows: Tensor, particles: int) -> tuple[Latents, Tensor]:
        constant = {key: value.detach() for key, value in features.items()}
        latents, log_q = {}, []
        for name in joint.sites:
            moving, held = (
                torch.distributions.MultivariateNormal(loc, scale_tril=tril, validate_args=False)
                for loc, tril in (_normal(joint, name, each, rows) for each in (features, constant))
            )
            latents[name] = moving.rsample(torch.Size((particles,)))
            log_q.append(held.log_prob(latents[name]))
        return latents, torch.stack(log_q).sum(0)

    return Family(features, draw)


def _normal(joint: Joint, name: str, features: Features, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the triangle of one site of some data from their features."""
    place = 2 * list(joint.sites).index(name) - 2 * len(joint.sites)
    first, root = joint.batch[place][rows], joint.batch[place + 1][rows]
    loc, triangle = features[f"{name}.loc"], features[f"{name}.triangle"]
    below = triangle.tril(-1) + triangle.diagonal(0, 1, 2).exp().diag_embed()
    return first + (root @ loc[..., None])[..., 0], root @ below


def check_sampling(method: Method, draws: int, particles: int) -> None:
    """Raises ValueError unless these are choices of `restore_latents`."""
    check_choice("method", method, get_args(Method))
    check_count("draws", draws, 4)
    check_count("particles", particles, 25)


@torch.no_grad()
def restore_latents(
    joint: Joint,
    *,
    draws: int = 100,
    method: Method = "auto",
    particles: int = 2000,
    say: Callable[[str], None] = lambda note: None,
) -> RestoredLatents:
    """Draws from p(z|y) of each image.

    Importance resampling from the refined normal comes first. `auto` goes on with NUTS for the
    images whose k-hat is above 0.7, and then with annealing from the prior for those whose R-hat
    is above 1.05. Both diagnostics see what the chains and draws have met: where p(z|y) has modes
    far from the normal, only `annealing` finds them.

    Args:
        joint: A pair of `corrupted_joint`, refined.
        draws: S.
        method: `auto`, or the last method that is used, for all images.
        particles: Importance draws, from which S are resampled.
        say: Called with what is being done.

    Raises:
        ValueError: If a number is out of range, or the method is unknown.
    """
    check_sampling(method, draws, particles)
    result = _by_importance(joint, draws, particles)
    every = torch.arange(len(joint))
    chosen = {"auto": every[result.k_hat.cpu() > RELIABLE], "nuts": every}.get(method, every[:0])
    if len(chosen):
        say(f"NUTS on {len(chosen):,} of {len(joint):,}")
        result = _merged(result, _by_nuts(joint[chosen], result, chosen, draws), chosen)
    chosen = {"auto": every[result.r_hat > MIXED], "annealing": every}.get(method, every[:0])
    if len(chosen):
        say(f"annealing {len(chosen):,} of {len(joint):,}")
        result = _merged(result, _by_annealing(joint[chosen], result, chosen, draws), chosen)
    return result


def _by_importance(joint: Joint, draws: int, particles: int) -> RestoredLatents:
    size, device = len(joint), joint.batch[0].device
    log_weights = torch.zeros(particles, size, dtype=torch.float64, device=device)
    latents = {
        name: joint.batch[0].new_zeros(particles, size, *event)
        for name, event in joint.sites.items()
    }
    for rows, start, count in joint.pieces(particles):
        piece, log_guide = joint[rows].draw(count)
        terms = torch.stack(joint[rows].log_terms(piece)).sum(0) - log_guide
        log_weights[start : start + count, rows] = terms.double()
        for name, value in piece.items():
            latents[name][start : start + count, rows] = value
    pareto = pareto_k(log_weights)
    log_likelihood, error = log_mean(log_weights)
    return RestoredLatents(
        _resampled(latents, log_weights, draws),
        ["importance"] * size,
        log_likelihood,
        error,
        pareto.k_hat,
        torch.full((size,), torch.nan, dtype=torch.float64),
        pareto.ess,
    )


def _resampled(latents: Latents, log_weights: Tensor, draws: int) -> Latents:
    """S of the draws of each image, systematically by their weights, in random order."""
    uniform = torch.rand(log_weights.shape[1], 1).to(log_weights)
    places = (torch.arange(draws).to(log_weights) + uniform) / draws  # (B, S)
    cumulative = log_weights.softmax(0).cumsum(0).T.contiguous()
    chosen = torch.searchsorted(cumulative, places).clamp(max=len(log_weights) - 1)
    order = torch.rand(places.shape).argsort(1).to(chosen.device)
    chosen = chosen.gather(1, order).T  # (S, B)
    return {name: z.gather(0, chosen[..., None].expand(-1, -1, z.shape[-1])) for name, z in
            latents.items()}  # fmt: skip


def _by_nuts(joint: Joint, found: RestoredLatents, chosen: Tensor, draws: int) -> RestoredLatents:
    each = max(draws, 2 * _CHAINS * 50) // _CHAINS
    posterior = nuts_posterior(joint, draws=each, warmup=_WARMUP, chains=_CHAINS)
    kept = torch.linspace(0, _CHAINS * each - 1, draws).round().long()
    worst = {name: value.flatten(1).amax(1) for name, value in posterior.r_hat.items()}
    least = {name: value.flatten(1).amin(1) for name, value in posterior.ess.items()}
    return replace(
        found,
        latents={name: z.flatten(0, 1)[kept] for name, z in posterior.latents.items()},
        method=["nuts"] * len(chosen),
        r_hat=torch.stack([*worst.values()]).amax(0),
        ess=torch.stack([*least.values()]).amin(0),
    )


def _by_annealing(
    joint: Joint, found: RestoredLatents, chosen: Tensor, draws: int
) -> RestoredLatents:
    annealed = ais(
        joint, chains=_ANNEALED, temperatures=_TEMPERATURES, leapfrog_steps=_LEAPFROG_STEPS
    )
    return replace(
        found,
        latents=_resampled(annealed.latents, annealed.log_weights, draws),
        method=["annealing"] * len(chosen),
        r_hat=found.r_hat[chosen],
        ess=pareto_k(annealed.log_weights).ess,
    )


def _merged(whole: RestoredLatents, part: RestoredLatents, rows: Tensor) -> RestoredLatents:
    """The whole with the latents, method, R-hat and effective draws of some images replaced."""
    latents = {name: value.clone() for name, value in whole.latents.items()}
    for name, value in part.latents.items():
        latents[name][:, rows] = value.to(latents[name])
    method, r_hat, ess = list(whole.method), whole.r_hat.clone(), whole.ess.clone()
    for row, name in zip(rows.tolist(), part.method, strict=True):
        method[row] = name
    r_hat[rows], ess[rows] = part.r_hat.to(r_hat), part.ess.to(ess)
    return replace(whole, latents=latents, method=method, r_hat=r_hat, ess=ess)
