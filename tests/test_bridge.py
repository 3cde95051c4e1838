"""Bridge sampling against log p(x) that is known."""

from math import sqrt

import torch
from oracles import ppca, refused

from ppl_vae.inference.bridge import bridge_log_likelihood


def test_bridge_sampling_finds_log_p() -> None:
    """Probabilistic PCA, a guide that is too narrow and beside the mark: the truth is known."""
    model = ppca()
    with torch.no_grad():
        x = model(size=6)
        exact = model.posterior(x)
        q = torch.distributions.Independent(
            torch.distributions.Normal(exact.mean + 0.1, 0.5 * exact.variance.sqrt()), 1
        )

        def weights(z: torch.Tensor) -> torch.Tensor:
            return model.prior().log_prob(z) + model.decode(z).log_prob(x) - q.log_prob(z)

        draws = ((weights(q.sample((2000,))), weights(exact.sample((500,)))) for _ in range(20))
        found = torch.stack([bridge_log_likelihood(*each) for each in draws])
        error = found.std(0) / sqrt(20)
        assert (abs(found.mean(0) - model.log_likelihood(x)) < 4 * error + 2e-3).all()


def test_bridge_sampling_of_a_constant_is_exact() -> None:
    weights = torch.full((7, 2), -90.25)
    found = bridge_log_likelihood(weights, weights[:3])
    torch.testing.assert_close(found, torch.full((2,), -90.25, dtype=torch.float64))
    with refused("expected log-weights"):
        bridge_log_likelihood(weights, weights[:, :1])
