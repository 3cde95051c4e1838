"""Encoding and decoding in pieces, at bounded memory."""

import pytest
import torch
from torch import Tensor

from guides import IAF, DiagonalNormal, Guide
from models import VAE, Bernoulli, DiscretizedLogistic, Likelihood, Spec
from ppl_vae import encoding
from ppl_vae.encoding import decoded_mean, posterior_mean
from ppl_vae.joint import Allocations

SHAPE = (1, 8, 8)


def pair(likelihood: type[Likelihood], guide: type[Guide]) -> tuple[VAE, Guide]:
    spec = Spec(SHAPE, likelihood.domain, 3)
    return VAE(spec, likelihood=likelihood(spec)).eval(), guide(spec).eval()


@pytest.mark.parametrize("memory_bytes", [1, 100_000, 2**30])
def test_a_mean_is_that_of_each_image(memory_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, guide = pair(Bernoulli, DiagonalNormal)
    monkeypatch.setattr(encoding, "memory_bound", lambda device: memory_bytes)
    x, z = torch.rand(37, *SHAPE).round(), torch.randn(5, 7, 3)
    before = torch.get_rng_state()
    with torch.no_grad():
        torch.testing.assert_close(posterior_mean(model, guide, x), guide.posterior(x).mean)
        torch.testing.assert_close(
            decoded_mean(model, z), model.decode(z.flatten(0, 1)).mean.unflatten(0, (5, 7))
        )
        assert posterior_mean(model, guide, x[:1]).shape == (1, 3)
    assert torch.equal(torch.get_rng_state(), before)


class Largest(Allocations):
    """The bytes of the largest tensor."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.total = max(self.total, result.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("guide", [DiagonalNormal, IAF])
def test_memory_is_bounded_where_means_are_averages_over_draws(
    guide: type[Guide], monkeypatch: pytest.MonkeyPatch
) -> None:
    """256 draws of each pixel, or of each z."""
    bound = 2**21
    monkeypatch.setattr(encoding, "memory_bound", lambda device: bound)
    model, built = pair(DiscretizedLogistic, guide)
    with torch.no_grad(), Largest() as largest:
        x = decoded_mean(model, torch.randn(100, 3))
        assert posterior_mean(model, built, x.round()).shape == (100, 3)
    assert x.shape == (100, *SHAPE)
    assert largest.total < bound
    assert bound < 256 * 4 * 64 * 100
