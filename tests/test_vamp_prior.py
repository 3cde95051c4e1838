"""The VampPrior, against SciPy's mixture and through a whole run."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from comparing import loss_and_gradients
from scipy.special import logsumexp
from torch import Tensor

import ppl_vae
from guides import BottomUp, DiagonalNormal, Ladder, SemiAmortized
from models import MLP, VAE, Hierarchical, Linear, Spec, VampPrior
from ppl_vae.densities.weights import log_terms
from ppl_vae.errors import InputError
from ppl_vae.evaluate import evaluate
from ppl_vae.fit import fit, resume
from ppl_vae.generate import generate
from ppl_vae.objectives import ELBO, IWAE
from ppl_vae.pairs.checks import check_pair
from ppl_vae.runs.checkpoints import LAST, read_checkpoint
from ppl_vae.training.loop import Training

SPEC = Spec((1, 3, 2), "binary", 2)
TINY = partial(MLP, hidden=[8])


def _pair(spec: Spec = SPEC, components: int = 5) -> tuple[VAE, DiagonalNormal]:
    model = VAE(spec, prior=VampPrior(spec, components), network=Linear)
    guide = DiagonalNormal(spec, network=Linear)
    model.connect(guide.amortized_posterior)
    return model, guide


def test_the_density_is_scipys_mixture_of_posteriors():
    model, guide = (program.double() for program in _pair())
    z = torch.randn(50, 2, dtype=torch.float64)
    parts = guide.posterior(model.prior.pseudo_inputs)
    loc, scale = parts.mean.detach().numpy(), parts.stddev.detach().numpy()
    each = scipy.stats.norm.logpdf(z.numpy()[:, None], loc, scale).sum(-1)
    expected = logsumexp(each, b=1 / 5, axis=1)
    np.testing.assert_allclose(model.prior().log_prob(z).detach(), expected, rtol=1e-10)
    draws = model.prior().sample((20_000,)).numpy()
    variance = (scale**2 + loc**2).mean(0) - loc.mean(0) ** 2
    assert (np.abs(draws.mean(0) - loc.mean(0)) < 4 * np.sqrt(variance / 20_000)).all()


def test_the_posterior_of_the_pseudo_inputs_is_computed_once_a_call():
    model, guide = _pair()
    calls: list[Tensor] = []

    def counting(x: Tensor):
        calls.append(x)
        return guide.posterior(x)

    model.connect(counting)
    log_terms(model, guide, model(size=4), 7)
    assert [len(x) for x in calls] == [5, 5]  # for the draws, and for the terms


@pytest.mark.parametrize(("domain", "top"), [("binary", 1), ("unit", 1), ("bytes", 255)])
def test_pseudo_inputs_start_as_data_and_stay_in_the_range(domain, top):
    prior = VampPrior(Spec((1, 3, 2), domain, 2), 4)
    x = top * torch.tensor([0.0, 1.0, 0.4, 0.6]).reshape(4, 1, 1, 1).expand(4, 1, 3, 2)
    prior.initialise(lambda count: x[:count])
    assert (prior.pseudo_inputs - x).abs().max() < 0.06 * top
    assert len(prior.pseudo_inputs.unique(dim=0)) == 4
    prior.pseudo_inputs.sum().backward()
    assert (prior.unclamped.grad != 0).all()  # at the edges too
    with torch.no_grad():
        prior.unclamped += torch.randn_like(prior.unclamped)
    assert prior.pseudo_inputs.min() == 0
    assert prior.pseudo_inputs.max() == top


def test_real_pseudo_inputs_are_free():
    prior = VampPrior(Spec((1, 3, 2), "real", 2), 3)
    prior.initialise(lambda count: torch.full((count, 1, 3, 2), -7.0))
    assert (prior.pseudo_inputs + 7).abs().max() < 0.06


def _with_an_equal_guide(objective) -> list[list[Tensor]]:
    """A guide's gradient; and its own and the prior's where that is made of another, equal one."""
    model, guide = (program.double() for program in _pair())
    x = torch.bernoulli(torch.full((4, 1, 3, 2), 0.5)).double()
    other = DiagonalNormal(SPEC, network=Linear).double()
    other.load_state_dict(guide.state_dict())
    gradients = []
    for posterior, module in ((guide, guide), (other, guide), (other, other)):
        model.connect(posterior.posterior)
        gradients.append(loss_and_gradients(objective.loss, [module], model, guide, x)[1:])
    return gradients


def test_a_guides_gradient_has_the_path_through_the_prior():
    """The gradient with q(z|u) held constant, plus that of log p(z) alone."""
    whole, own, of_prior = _with_an_equal_guide(ELBO())
    assert all(gradient.abs().max() > 1e-4 for gradient in of_prior)
    both = [a + b for a, b in zip(own, of_prior, strict=True)]
    torch.testing.assert_close(whole, both, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("gradient", ["stl", "dreg"])
def test_estimators_that_stop_the_guide_keep_the_path_through_the_prior(gradient):
    """The prior's q counts as the model's: as if it were that of another, equal guide."""
    whole, own, of_prior = _with_an_equal_guide(IWAE(6, gradient))
    both = [a + b for a, b in zip(own, of_prior, strict=True)]
    torch.testing.assert_close(whole, both, rtol=1e-9, atol=1e-12)


def test_the_guides_parameters_stay_the_guides():
    model, guide = _pair()
    assert set(model.state_dict()) == {"prior.unclamped", "decoder.linear.weight",
                                       "decoder.linear.bias"}  # fmt: skip
    assert not {id(p) for p in guide.parameters()} & {id(p) for p in model.parameters()}


def test_with_a_guide_that_improves_the_prior_is_of_what_the_network_gives():
    model = VAE(SPEC, prior=VampPrior(SPEC, 5), network=Linear)
    guide = SemiAmortized(SPEC, model, network=Linear)
    model.connect(guide.amortized_posterior)
    assert torch.equal(
        model.prior().component_distribution.mean,
        guide.guide.posterior(model.prior.pseudo_inputs).mean,
    )
    check_pair(model, guide, torch.bernoulli(torch.full((4, 1, 3, 2), 0.5)))


@pytest.mark.parametrize("kind", [BottomUp, Ladder])
def test_a_guide_without_one_distribution_is_refused_with_the_remedy(kind):
    model = Hierarchical(SPEC, prior=VampPrior(Hierarchical.prior_spec(SPEC), 5))
    guide = kind(SPEC, model)
    model.connect(guide.amortized_posterior)
    with pytest.raises(InputError) as caught:
        check_pair(model, guide, torch.bernoulli(torch.full((4, 1, 3, 2), 0.5)))
    message = str(caught.value)
    assert f"q(z|x) of {kind.__name__} is not one distribution; choose another prior" in message
    assert "\n" not in message


def test_it_needs_a_connection():
    with pytest.raises(RuntimeError, match=r"call model\.connect"):
        VampPrior(SPEC)()


def _fit(path: Path):
    options = {"network": TINY, "latent_dim": 2, "epochs": 2, "checkpoint_seconds": 0}
    return fit(prior=partial(VampPrior, components=20), run=path, **options)


def test_a_run_trains_loads_measures_generates_and_resumes_exactly(tmp_path, monkeypatch):
    whole = _fit(tmp_path / "whole")
    expected = read_checkpoint(tmp_path / "whole" / LAST)[0]
    loaded = ppl_vae.load(tmp_path / "whole")
    z = torch.randn(6, 2)
    assert torch.equal(loaded.model.prior().log_prob(z), whole.model.prior().log_prob(z))
    assert evaluate(loaded, particles=5, data_points=20)["elbo_nats_per_datum"] < 0
    assert generate(loaded, "sample")[0].exists()
    assert generate(loaded, "manifold", rows=3)[0].exists()

    starts: list[Tensor] = []
    update = Training._update

    def stopping(self: Training, *arguments: Any) -> int:
        if self.steps == 0:
            starts.append(self.step.model.prior.pseudo_inputs.detach().clone())
        if self.steps == 17 and len(starts) == 1 and not stopped:
            stopped.append(True)
            raise KeyboardInterrupt
        return update(self, *arguments)

    stopped: list[bool] = []
    monkeypatch.setattr(Training, "_update", stopping)
    with pytest.raises(KeyboardInterrupt):
        _fit(tmp_path / "stopped")
    resume(tmp_path / "stopped")
    got = read_checkpoint(tmp_path / "stopped" / LAST)[0]
    parameters = [name for name in expected if name.startswith(("model.", "guide.", "optimizer."))]
    assert parameters
    for name in parameters:
        assert torch.equal(got[name], expected[name]), name
    # Twenty different training images, with noise: near 0 and 1, and not as constructed.
    assert ((starts[0] < 0.06) | (starts[0] > 0.94)).all()
    assert len(starts[0].round().unique(dim=0)) > 15
