"""The variational Renyi bound against closed forms, and against the bounds that it contains."""

from math import sqrt

import pytest
import torch
from comparing import loss_and_gradients, seeded
from torch import Tensor

from ppl_vae.objectives import ELBO, IWAE, Renyi


def divergence_of_normals(alpha: float, q, p) -> Tensor:
    """Renyi's divergence of multivariate normals, (B,); Gil, Alajaji and Linder (2013), table 2."""
    difference = q.mean - p.mean
    between = alpha * p.covariance_matrix + (1 - alpha) * q.covariance_matrix
    solved = torch.linalg.solve(between, difference.unsqueeze(-1)).squeeze(-1)
    log_determinants = (
        torch.logdet(between)
        - (1 - alpha) * torch.logdet(q.covariance_matrix)
        - alpha * torch.logdet(p.covariance_matrix)
    )
    return alpha / 2 * (difference * solved).sum(-1) + log_determinants / (2 * (1 - alpha))


@pytest.mark.parametrize("alpha", [-0.3, 0.0, 0.5, 0.9, 2.0])
@torch.no_grad()
def test_the_bound_is_log_p_less_the_divergence_from_the_posterior(pair, alpha):
    model, guide, x = pair
    gap = divergence_of_normals(alpha, guide.posterior(x), model.posterior(x))
    exact = (model.log_likelihood(x) - gap).mean().item()
    values = -torch.stack([Renyi(alpha, 20_000).loss(model, guide, x) for _ in range(12)])
    assert abs(values.mean().item() - exact) < 4 * values.std().item() / sqrt(12) + 1e-4
    assert gap.mean().abs() > 0.05 or alpha == 0  # and there is something to see


@pytest.mark.parametrize(
    ("renyi", "other"),
    [(Renyi(0.0, 7), IWAE(7)), (Renyi(1.0, 7), ELBO(7)), (Renyi(-3.0, 1), ELBO()), (Renyi(), None)],
    ids=str,
)
def test_what_it_contains(pair, renyi, other):
    model, guide, x = pair
    found, expected = (
        loss_and_gradients(objective.loss, (model, guide), model, guide, x)
        for objective in (renyi, other or ELBO(50))
    )
    same = [
        torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in zip(found, expected, strict=True)
    ]
    assert all(same) if other else not any(same)


@torch.no_grad()
def test_it_falls_with_alpha_and_has_its_limit_at_one(pair):
    model, guide, x = pair
    alphas = (-5.0, -1.0, 0.0, 0.5, 1 - 1e-7, 1.0, 1 + 1e-7, 2.0, 10.0)
    bounds = [-seeded(Renyi(alpha, 9).loss, model, guide, x).item() for alpha in alphas]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] - bounds[-1] > 0.1
    assert bounds[4] == pytest.approx(bounds[5], abs=1e-5)
    assert bounds[6] == pytest.approx(bounds[5], abs=1e-5)
