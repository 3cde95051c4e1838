"""Scores and pixel maps against closed forms, and against another optimiser."""

from math import log

import numpy as np
import pytest
import torch
from cases import COVERING, Case, with_labels
from oracles import Posterior, ppca, split_of
from own_images import save_pictures
from pyro.distributions import Normal
from scipy.optimize import minimize
from scipy.stats import spearmanr
from torch import Tensor
from torch.distributions import kl_divergence

from guides import DiagonalNormal
from models import Linear
from ppl_vae.data import Digits, Split
from ppl_vae.densities.weights import log_terms
from ppl_vae.inference.gaps import gap_decomposition
from ppl_vae.measures.anomaly_scores import SCORES, Evidence, code_lengths, log_volume
from ppl_vae.measures.code_length import context_code_length
from ppl_vae.measures.estimates import Estimates, estimate
from ppl_vae.measures.pixel_maps import pixel_maps, usual_map


def test_scores_of_an_exact_pair_are_those_of_log_p() -> None:
    """Every importance weight is p(x), whatever the number of draws."""
    model = ppca()
    x = 2 * model(size=200)  # some of them far out
    exact = model.log_likelihood(x)
    evidence = Evidence(estimate(model, Posterior(model), split_of(x), 1), usual=-7.0)
    for name in ("log_likelihood", "elbo"):
        torch.testing.assert_close(SCORES[name](evidence), -exact)
        assert spearmanr(SCORES[name](evidence), exact).statistic == pytest.approx(-1)
    torch.testing.assert_close(SCORES["typicality"](evidence), (exact + 7).abs())


def test_each_score_is_its_formula() -> None:
    torch.manual_seed(0)
    terms = torch.randn(8, 5, dtype=torch.float64)
    own, other = Estimates(*terms[:4]), Estimates(*terms[4:])
    lengths = {"context": torch.arange(5.0), "zlib": torch.arange(5.0) ** 2}
    evidence = Evidence(own, 9.0, lengths, other, 0.3, terms[1], terms[0])
    expected = {
        "exemplar_complexity": 9 - terms[0] - torch.arange(5.0),
        "complexity": 9 - terms[3] - torch.arange(5.0),
        "zlib_complexity": 9 - terms[3] - torch.arange(5.0) ** 2,
        "log_likelihood": -terms[3],
        "elbo": -terms[0],
        "distortion": terms[2],
        "rate": terms[1],
        "typicality": (terms[3] - 0.3).abs(),
        "likelihood_ratio": terms[7] - terms[3],
        "likelihood_regret": terms[1],
    }
    assert SCORES.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(SCORES[name](evidence), values, check_dtype=False)


@pytest.mark.parametrize("domain", ["binary", "bytes", "real", "unit"])
def test_code_lengths_are_of_the_grey_levels_before_the_conversion(domain) -> None:
    data = Digits().load(domain, 0)
    raw = Digits().load("real", 0).test[:20]
    levels = (raw * 17).floor().long()
    if domain == "binary":
        levels = data.test[:20].long()
    if domain == "bytes":
        levels = (levels * 255 / 16).round().long()
    count = {"binary": 2, "bytes": 256}.get(domain, 17)
    lengths = code_lengths(["complexity", "elbo"], data.test.first(20), data)
    assert lengths.keys() == {"context"}
    torch.testing.assert_close(lengths["context"], context_code_length(levels, count))
    assert log_volume(data) == (64 * log(17) if domain == "real" else 0)


@pytest.mark.parametrize("domain", ["real", "unit"])
def test_code_lengths_of_files_with_more_levels_are_those_of_the_run(domain, tmp_path) -> None:
    """The same digits, stored with 256 grey levels in the place of 17."""
    data = Digits().load(domain, 0)
    images = Digits().load("bytes", 0).test[:20, 0].numpy().astype(np.uint8)
    files = save_pictures(tmp_path, images).load(domain, 0)
    assert (data.levels, files.levels) == (17, 256)
    own, other = (
        code_lengths(["complexity"], images, data)["context"]
        for images in (data.test.first(20), files.all)
    )
    torch.testing.assert_close(own, other, rtol=0, atol=0)


def test_values_beyond_the_grey_levels_count_as_the_nearest() -> None:
    data = Digits().load("real", 0)
    x = torch.tensor([-0.5, 0.0, 1.0, 7.0]).expand(1, 1, 4, 4)
    split = Split(x, None, torch.Tensor.float)
    lengths = code_lengths(["complexity"], split, data)["context"]
    levels = torch.tensor([0, 0, 16, 16]).expand(1, 1, 4, 4)
    torch.testing.assert_close(lengths, context_code_length(levels, 17))


WITHOUT_MAPS = ("SemiAmortized", "MixtureOfLogistics")  # pixels of the latter are not independent
MAPPED = [
    case
    for case in sorted(COVERING, key=str)
    if case.guide.kind.has_density and not any(name in str(case) for name in WITHOUT_MAPS)
]


@pytest.mark.parametrize("case", MAPPED, ids=str)
@torch.no_grad()
def test_a_map_sums_to_the_distortion(case: Case) -> None:
    torch.manual_seed(0)
    model, guide = case.build()
    x = case.data()
    batch = with_labels(model, x)
    labels = batch[1] if model.labelled and not model.enumerated else None
    torch.manual_seed(1)
    maps = pixel_maps(model.eval(), guide.eval(), split_of(x, labels), 3)
    torch.manual_seed(1)
    terms = log_terms(model, guide, x, 3, labels=labels, scaled=False)
    distortion = -terms.sum(terms.log_likelihood) / 3
    assert maps.shape == x.shape
    torch.testing.assert_close(maps.sum((1, 2, 3)), distortion, rtol=1e-4, atol=1e-3)
    torch.manual_seed(1)
    usual = usual_map(model, guide, split_of(x, labels), 3)
    torch.testing.assert_close(usual, maps.mean(0), rtol=1e-4, atol=1e-4)


def test_regret_is_what_another_optimiser_gains() -> None:
    """On probabilistic PCA the ELBO of a diagonal normal is closed; SciPy's BFGS maximises it."""
    model = ppca()
    x = model(size=4)
    torch.manual_seed(0)
    guide = DiagonalNormal(model.spec, network=Linear).double()
    gaps = gap_decomposition(model, guide, x, particles=2000)

    def elbo(place: int, loc: Tensor, log_scale: Tensor) -> Tensor:
        scale = log_scale.exp()
        variance = (2 * model.log_scale).exp()
        error = x[place].flatten() - model.mean - loc @ model.loadings.mT
        spread = (scale**2 * model.loadings.square().sum(0)).sum()
        pixels = error.numel()
        fit = -0.5 * (error.square().sum() + spread) / variance
        fit = fit - 0.5 * pixels * (2 * torch.pi * variance).log()
        return fit - kl_divergence(Normal(loc, scale), Normal(0.0, 1.0)).sum()

    for place in range(4):
        q = guide.posterior(x[place : place + 1])
        own = elbo(place, q.mean[0], q.variance[0].log() / 2).item()

        def loss(values: np.ndarray, place: int = place) -> tuple[float, np.ndarray]:
            free = torch.tensor(values, requires_grad=True)
            value = -elbo(place, *free.chunk(2))
            (gradient,) = torch.autograd.grad(value, free)
            return value.item(), gradient.numpy()

        best = -minimize(loss, np.zeros(2 * q.mean.shape[1]), jac=True, method="BFGS").fun
        error = gaps.amortization_gap_standard_error[place].item()
        assert abs(gaps.amortization_gap[place].item() - (best - own)) < 4 * error + 0.01
