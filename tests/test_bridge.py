"""Bridge sampling against log p(x) that is known."""

from math import sqrt

import pytest
import torch

from models import ProbabilisticPCA, Spec
from ppl_vae.errors import InputError
from ppl_vae.inference.bridge import bridge_log_likelihood


def test_bridge_sampling_finds_log_p() -> None:
    """Probabilistic PCA, a guide that is too narrow and beside the mark: the truth is known."""
    spec = Spec((1, 3, 3), "real", latent_dim=3)
    model = ProbabilisticPCA(spec, initial_scale=0.7).double()
    with torch.no_grad():
        x = model(size=6).double()
        exact = model.posterior(x)
        q = torch.distributions.Independent(
            torch.distributions.Normal(exact.mean + 0.1, 0.5 * exact.variance.sqrt()), 1
        )

        def weights(z: torch.Tensor) -> torch.Tensor:
            return model.prior().log_prob(z) + model.decode(z).log_prob(x) - q.log_prob(z)

        found = torch.stack(
            [
                bridge_log_likelihood(weights(q.sample((2000,))), weights(exact.sample((500,))))
                for _ in range(20)
            ]
        )
        error = found.std(0) / sqrt(20)
        assert (abs(found.mean(0) - model.log_likelihood(x)) < 4 * error + 2e-3).all()


def test_bridge_sampling_of_a_constant_is_exact() -> None:
    weights = torch.full((7, 2), -90.25)
    found = bridge_log_likelihood(weights, weights[:3])
    torch.testing.assert_close(found, torch.full((2,), -90.25, dtype=torch.float64))
    with pytest.raises(InputError, match="expected log-weights"):
        bridge_log_likelihood(weights, weights[:, :1])
