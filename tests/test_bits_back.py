"""Images come back as they were, in about -ELBO bits."""

import sys
from functools import partial
from math import log

import numpy as np
import pytest
import torch
from coded import check_they_come_back, images_of
from scipy import stats
from tiny_runs import tiny

from guides import (
    IAF,
    Bidirectional,
    BottomUp,
    Delta,
    DiagonalNormal,
    FullRankNormal,
    Guide,
    Ladder,
)
from models import (
    MLP,
    VAE,
    Bernoulli,
    BetaBinomial,
    Cells,
    Conditional,
    Convolutional,
    DiscretizedLogistic,
    Flow,
    Gaussian,
    Hierarchical,
    Likelihood,
    Linear,
    MixtureOfLogistics,
    MixtureOfNormals,
    Model,
    Residual,
    Spec,
    TopDown,
    VampPrior,
)
from ppl_vae.coding.ans import Stack
from ppl_vae.coding.bits_back import decode, encode
from ppl_vae.coding.conversion import integer_pair, restored
from ppl_vae.coding.likelihoods import pixels_of
from ppl_vae.coding.priors import prior_of
from ppl_vae.errors import InputError
from ppl_vae.machine.randomness import seeded
from ppl_vae.measures.estimates import estimate

SHAPE = (2, 5, 4)
SMALL = {
    MLP: partial(MLP, hidden=(8,)),
    Linear: Linear,
    Convolutional: partial(Convolutional, channels=(4,), hidden=8),
    Residual: partial(Residual, channels=(4, 6), hidden=8),
    Cells: partial(Cells, channels=6, inner=4),
}
PAIRS = [(VAE, DiagonalNormal), (VAE, FullRankNormal), (Hierarchical, BottomUp)]
LIKELIHOODS = [Bernoulli, BetaBinomial, DiscretizedLogistic, MixtureOfLogistics]


def build(
    model: type[Model],
    guide: type[Guide],
    likelihood: type[Likelihood],
    network: type = MLP,
    **options,
) -> tuple[Model, Guide]:
    spec = Spec(SHAPE, likelihood.domain, 3)
    p = model(spec, likelihood=likelihood(spec), network=SMALL[network], **options)
    with_model = {"model": p} if guide in (BottomUp, Bidirectional) else {}
    return p, guide(spec, network=SMALL[network], **with_model)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize(("model", "guide"), [*PAIRS, (TopDown, Bidirectional)])
def test_images_come_back(model, guide, likelihood) -> None:
    p, q = build(model, guide, likelihood)
    check_they_come_back(integer_pair(p, q), images_of(p, 60))


PRIORS = {
    "flow": lambda spec: Flow(spec, flows=1, hidden=(6,)),
    "normal": lambda spec: MixtureOfNormals(spec, components=1),
    "mixture": lambda spec: MixtureOfNormals(spec, components=4),
}


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize(("model", "guide"), PAIRS)
def test_images_come_back_under_every_prior(model, guide, prior) -> None:
    spec = Spec(SHAPE, "binary", 3)
    p, q = build(model, guide, Bernoulli, prior=PRIORS[prior](model.prior_spec(spec)))
    for parameter in p.prior.parameters():
        torch.nn.init.normal_(parameter)
    pair, images = integer_pair(p, q), images_of(p, 60)
    words, batches = encode(pair, images)
    assert np.array_equal(decode(restored(pair.data), words, len(images), batches), images)


def test_latents_of_a_mixture_cost_what_it_says() -> None:
    prior = MixtureOfNormals(Spec(SHAPE, "binary", 3), components=4)
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter)
    mixture, bins = prior_of(prior)
    edges, z = bins.edges / 2**14, prior().sample((500,)).numpy()
    chosen = np.array([*map(np.searchsorted, edges, z.T)]).T
    stack = Stack.seeded(0)
    before = len(stack)
    mixture.push(stack, bins, chosen.astype(np.int32))
    weight, loc, scale = (
        each.detach().double().numpy()
        for each in (prior.logits.softmax(0), prior.loc, prior.log_scale.exp())
    )
    ends = np.pad(edges, ((0, 0), (1, 1)), constant_values=((0, 0), (-np.inf, np.inf)))
    d = np.arange(3)
    upper, lower = (
        stats.norm.cdf((ends[d, chosen + more][:, None] - loc) / scale) for more in (1, 0)
    )
    exact = -np.log2(((upper - lower).prod(2) * weight).sum(1))
    # The weights follow from the middles of the bins before, which are narrow.
    assert 32 * (len(stack) - before) == pytest.approx(exact.sum(), rel=2e-3, abs=64)


def test_the_bins_of_a_prior_do_not_follow_from_a_library_of_exponentials(monkeypatch) -> None:
    """torch's exp differs by a rounding between processors; here exp(0) ends below 1."""
    spec = Spec(SHAPE, "binary", 3)
    prior = MixtureOfNormals(spec, components=1)
    torch.nn.init.zeros_(prior.log_scale)
    p, q = build(VAE, DiagonalNormal, Bernoulli, prior=prior)
    before = integer_pair(p, q).digest
    exact = torch.Tensor.exp
    monkeypatch.setattr(torch.Tensor, "exp", lambda x: exact(x) * (1 - 2.0**-23))
    assert integer_pair(p, q).digest == before


@pytest.mark.parametrize("network", SMALL)
def test_images_come_back_from_every_network(network) -> None:
    p, q = build(VAE, DiagonalNormal, BetaBinomial, network)
    pair, images = integer_pair(p, q), images_of(p, 10)
    words, batches = encode(pair, images)
    assert np.array_equal(decode(pair, words, len(images), batches), images)


def test_one_image_none_and_impossible_ones_come_back() -> None:
    p, q = build(VAE, DiagonalNormal, Bernoulli)
    with torch.no_grad():  # every pixel 1, to all that masses can say
        p.decoder.layers[-1].bias.fill_(1000.0)
    pair = integer_pair(p, q)
    for images in (np.zeros((1, *SHAPE)), np.zeros((0, *SHAPE)), np.zeros((50, *SHAPE))):
        words, batches = encode(pair, images.astype(np.uint8))
        assert np.array_equal(decode(pair, words, len(images), batches), images)
    per_pixel = 32 * len(words) / images.size
    assert 22 < per_pixel < 27  # a mass is never below 2^-24


@pytest.mark.parametrize(
    ("likelihood", "options"),
    [
        (Bernoulli, {}),
        (BetaBinomial, {}),
        (DiscretizedLogistic, {}),
        (MixtureOfLogistics, {}),
        (Bernoulli, {"guide": FullRankNormal}),
        (Bernoulli, {"prior": partial(Flow, flows=1, hidden=(8,))}),
        (Bernoulli, {"prior": partial(MixtureOfNormals, components=1)}),
        (Bernoulli, {"prior": MixtureOfNormals}),
        (Bernoulli, {"prior": MixtureOfNormals, "latent_dim": 1}),
        (Bernoulli, {"model": Hierarchical, "guide": BottomUp}),
    ],
)
def test_the_length_is_the_negative_elbo(likelihood, options, tmp_path, no_pictures) -> None:
    run = tiny(tmp_path / "run", likelihood=likelihood, epochs=5, device="cpu", **options)
    pair = integer_pair(run.model, run.guide)
    images = run.data.test[:].to(torch.uint8).numpy()
    words, _ = encode(pair, images)
    with seeded(run.device, 0):
        elbo = estimate(run.model, run.guide, run.data.test, 50).elbo
    bits = -float(elbo.sum()) / log(2)
    # One draw of z for each image is part of the length: its spread is that of the weights.
    assert 32 * len(words) < 1.02 * bits + 64
    assert 32 * len(words) > 0.98 * bits


def test_a_missing_coder_is_named_with_the_remedy(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(InputError, match=r"pip install 'ppl-vae\[compress\]'"):
        Stack.seeded(10)


def test_batches_grow_as_the_stack_fills() -> None:
    p, q = build(VAE, DiagonalNormal, BetaBinomial)
    images = images_of(p, 200)
    _, batches = encode(integer_pair(p, q), images, 64)
    assert batches[0] <= 2
    assert batches == sorted(batches)
    assert batches[-1] < 64  # those of 64, and the last images, need not be said
    assert sum(batches) < len(images)


def test_words_that_are_not_those_of_the_images_are_refused() -> None:
    p, q = build(VAE, DiagonalNormal, Bernoulli)
    pair, images = integer_pair(p, q), images_of(p, 20)
    words, batches = encode(pair, images)
    words[3] ^= 1
    with pytest.raises(InputError, match="not those of the images"):
        decode(pair, words, len(images), batches)
    with pytest.raises(InputError, match="above 0"):
        Stack(np.zeros(3, np.uint32))


@pytest.mark.parametrize("likelihood", [BetaBinomial, DiscretizedLogistic])
def test_masses_of_bytes_are_those_of_the_likelihood(likelihood) -> None:
    spec = Spec((1, 1, 1), "bytes", 2)
    layer = likelihood(spec)
    features = torch.randn(300, 2, 1, 1).mul(2 * 4096).round()
    masses = pixels_of(layer).masses(features.double().numpy())(slice(300))
    x = torch.arange(256.0).reshape(256, 1, 1, 1, 1)
    expected = layer(features.double() / 4096).log_prob(x.double()).exp().T.numpy()
    assert (masses == masses.round()).all()
    assert (masses.sum(1) <= 2**23).all()
    np.testing.assert_allclose(masses / 2**23, expected, atol=0.004)
    lost = stats.entropy(expected, np.maximum(masses, 0.5) / 2**23, axis=1) / log(2)
    assert lost.mean() < 1e-4  # bits a pixel


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_cost_what_a_mixture_of_logistics_says(channels) -> None:
    torch.manual_seed(0)
    layer = MixtureOfLogistics(Spec((channels, 8, 8), "bytes", 2), components=3)
    features = torch.randn(40, *layer.features).mul(2 * 4096).round().double()
    images = layer(features / 4096).sample()
    exact = -layer(features / 4096).log_prob(images).sum().item() / log(2)
    pixels, codes = pixels_of(layer), images.numpy().astype(np.uint8)
    stack = Stack.seeded(0)
    pixels.push(stack, features.numpy(), codes)
    assert 32 * len(stack) == pytest.approx(exact, rel=1e-3, abs=64)
    assert np.array_equal(pixels.pop(stack, features.numpy(), codes.shape), codes)
    far = np.full_like(codes, 255)
    far[:, ::2] = 0  # where every component has a mass of 0
    extreme = features.numpy() * 1e3
    pixels.push(stack, extreme, far)
    assert np.array_equal(pixels.pop(stack, extreme, far.shape), far)
    assert stack.holds_seed(0)


def test_masses_of_a_beta_binomial_far_out_neither_overflow_nor_vanish() -> None:
    layer = BetaBinomial(Spec((1, 1, 1), "bytes", 2), floor=1e-9)
    ends = np.array([-(2.0**24), -16 * 4096, 0, 16 * 4096, 2.0**24])
    features = np.array([[a, b] for a in ends for b in ends]).reshape(-1, 2, 1, 1)
    masses = pixels_of(layer).masses(features)(slice(len(features)))
    assert np.isfinite(masses).all()
    assert (np.abs(masses.sum(1) - 2**23) <= 256).all()


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        (lambda: build(VAE, DiagonalNormal, Gaussian), "Gaussian; train with .*BetaBinomial"),
        (lambda: build(VAE, Delta, Bernoulli), "Delta; train with --guide DiagonalNormal"),
        (lambda: build(VAE, IAF, Bernoulli), "IAF; train with --guide DiagonalNormal"),
        (
            lambda: build(VAE, DiagonalNormal, Bernoulli, prior=Flow(Spec(SHAPE, "binary", 3))),
            "Flow; train with --prior StandardNormal",
        ),
        (
            lambda: build(
                VAE, DiagonalNormal, Bernoulli, prior=VampPrior(Spec(SHAPE, "binary", 3))
            ),
            "VampPrior; train with --prior StandardNormal",
        ),
    ],
)
def test_pairs_that_cannot_code_are_refused_with_a_remedy(pair, said) -> None:
    with pytest.raises(InputError, match=said) as caught:
        integer_pair(*pair())
    assert "\n" not in str(caught.value)


def test_a_model_that_cannot_code_is_refused() -> None:
    spec = Spec(SHAPE, "binary", 3, classes=2)
    with pytest.raises(InputError, match=r"or TopDown, .*Conditional; train with --model VAE$"):
        integer_pair(Conditional(spec), DiagonalNormal(spec))


def test_a_guide_of_two_layers_that_cannot_code_is_refused() -> None:
    p, _ = build(Hierarchical, BottomUp, Bernoulli)
    with pytest.raises(InputError, match="Ladder; train with --guide BottomUp"):
        integer_pair(p, Ladder(p.spec, p))
