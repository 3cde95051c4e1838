"""Images come back from pairs of many groups, in about -ELBO bits, and from hardly any at first."""

from dataclasses import replace
from functools import partial
from hashlib import sha256
from math import log

import numpy as np
import pytest
import torch
from coded import check_they_come_back, images_of
from scipy import special, stats
from tiny_runs import tiny
from torch import Tensor

from guides import Bidirectional
from models import (
    MLP,
    Bernoulli,
    BetaBinomial,
    Cells,
    DiscretizedLogistic,
    Flow,
    Gaussian,
    Likelihood,
    Linear,
    MixtureOfLogistics,
    Prior,
    Spec,
    StandardNormal,
    TopDown,
)
from ppl_vae.coding import decode, encode, integer_pair
from ppl_vae.coding.ans import Stack
from ppl_vae.coding.archive import Archive, embedded, pack
from ppl_vae.coding.compressing import archived, blocks_of, pair_in
from ppl_vae.coding.conversion import restored
from ppl_vae.coding.originals import InMemory
from ppl_vae.coding.standard_latents import StandardLatents, needed_bits
from ppl_vae.coding.tables import normal_cdf
from ppl_vae.coding.top_down_pair import TopDownPair
from ppl_vae.errors import InputError
from ppl_vae.machine.randomness import seeded
from ppl_vae.measures.estimates import estimate

SHAPE = (2, 12, 8)
GROUPS = [[2, 1], [1, 3], [1, 6]]  # maps of 1 x 1, 3 x 2 and 6 x 4
SMALL = {
    MLP: partial(MLP, hidden=(8,)),
    Linear: Linear,
    Cells: partial(Cells, channels=6, inner=4),
}
LIKELIHOODS = [Bernoulli, BetaBinomial, DiscretizedLogistic, MixtureOfLogistics]


def build(
    likelihood: type[Likelihood] = Bernoulli,
    network: type = Cells,
    relative: bool = True,
    shape: tuple[int, int, int] = SHAPE,
    groups: list[list[int]] = GROUPS,
    prior: type[Prior] = StandardNormal,
) -> tuple[TopDown, Bidirectional]:
    """A pair whose networks do more than those of an untrained one, which begin near 0."""
    torch.manual_seed(0)
    spec = Spec(shape, likelihood.domain, 2)
    network = SMALL[network]
    top = prior(TopDown.prior_spec(spec, groups))
    p = TopDown(spec, top, likelihood(spec), network, groups, width=5)
    q = Bidirectional(spec, p, network, relative)
    with torch.no_grad():
        for parameter in (*p.parameters(), *q.parameters()):
            parameter += 0.1 * torch.randn_like(parameter)
    return p, q


def finely(pair: TopDownPair, bits: int) -> TopDownPair:
    """The pair with so many bits for every latent."""
    return replace(pair, finest=tuple(np.full_like(each, bits) for each in pair.finest))


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("network", SMALL)
def test_images_come_back(network, likelihood, relative) -> None:
    p, q = build(likelihood, network, relative)
    check_they_come_back(integer_pair(p, q), images_of(p, 20))


@pytest.mark.parametrize(
    ("shape", "groups"),
    [((1, 4, 2), [[1, 2]]), ((1, 3, 3), [[1, 1]]), ((1, 8, 8), [[1, 2], [1, 4]])],
)
def test_images_come_back_from_maps_of_every_shape(shape, groups) -> None:
    """A map of 2 x 1, whose kernels are 3 x 1; one group, which is a `VAE`; none at 1 x 1."""
    p, q = build(shape=shape, groups=groups)
    pair, images = integer_pair(p, q), images_of(p, 40)
    words, batches = encode(pair, images)
    assert np.array_equal(decode(restored(pair.data), words, len(images), batches), images)


def test_one_image_none_and_impossible_ones_come_back() -> None:
    p, q = build()
    with torch.no_grad():  # every pixel 1, to all that masses can say
        p.decoder.layers[-1].bias.fill_(1000.0)
    pair = integer_pair(p, q)
    for count in (1, 0, 50):
        images = np.zeros((count, *SHAPE), np.uint8)
        words, batches = encode(pair, images)
        assert np.array_equal(decode(pair, words, count, batches), images)
    assert 22 < 32 * len(words) / images.size < 27  # a mass is never below 2^-24


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("network", SMALL)
@torch.no_grad()
def test_states_and_normals_are_those_of_floating_point(network, relative) -> None:
    p, q = build(BetaBinomial, network, relative)
    pair, images = integer_pair(p, q), images_of(p, 10)
    x = torch.tensor(images).float()
    found, expected = pair.networks.ascend(pair.input_of(images)), q.ascend(x)
    state = whole = None
    torch.manual_seed(1)
    for group, dim in enumerate(p.dims):
        np.testing.assert_allclose(found[group] / 2**12, expected[group], atol=0.02)
        prior, posterior = p.prior_of(state), q.posterior_given(group, state, expected[group])
        prior, posterior = (each.base_dist.expand((len(x), dim)) for each in (prior, posterior))
        loc, inverse = pair.networks.posterior(group, whole, found[group])
        apart = (posterior.loc - prior.loc) / prior.scale
        np.testing.assert_allclose(loc / 2**14, apart, rtol=0.01, atol=0.03)
        np.testing.assert_allclose(inverse / 2**20, prior.scale / posterior.scale, rtol=0.02)
        e = torch.randn(len(x), dim).mul(2**12).round()
        z = prior.loc + prior.scale * e / 2**12
        latents = pair.networks.latents(whole, e.double().numpy())
        np.testing.assert_allclose(latents / 2**12, z, rtol=0.01, atol=0.03)
        state = _below(p, group + 1, z, state)
        whole = pair.networks.descend(group + 1, latents, whole)
        np.testing.assert_allclose(whole / 2**12, state, rtol=0.01, atol=0.03)


def _below(p: TopDown, group: int, z: Tensor, state: Tensor | None) -> Tensor | None:
    """The state above a group; after the last, the features of the likelihood."""
    return p.features(z, state) if group == len(p.dims) else p.descend(group, z, state)


@torch.no_grad()
@pytest.mark.parametrize("part", ["state", "features"])
def test_large_activations_are_not_cut_off(part) -> None:
    p, q = build(BetaBinomial)
    images = images_of(p, 20)
    assert b"largest" not in integer_pair(p, q).data
    network = p.down[0] if part == "state" else p.decoder
    network.layers[-1].bias[: p.width] = 20_000.0
    pair = integer_pair(p, q)
    z, features = pair.at_means(images)
    state = None
    for number, latents in enumerate(torch.tensor(z / 2**12).float().split(p.dims, dim=-1)):
        state = _below(p, number + 1, latents, state)
    assert state.abs().max() > 6000
    # 45 weights, each rounded by up to 2^-15, times features of 20,000: 28 at most.
    np.testing.assert_allclose(features / 2**12, state, rtol=0.01, atol=20)
    check_they_come_back(pair, images)


@torch.no_grad()
def test_activations_are_cut_off_as_far_out_as_no_sum_is_rounded() -> None:
    p, q = build()
    found = []
    for factor in (1.0, 600.0):
        p.decoder.layers[-1].weight.mul_(factor)
        networks = integer_pair(p, q).networks
        found.append(networks.widened().largest)
        with pytest.raises(InputError, match=r"2\^53"):
            replace(networks, largest=2 * found[-1])
    assert 2**24 < found[1] < found[0] < 2**36


@torch.no_grad()
def test_the_means_are_those_of_the_guide() -> None:
    p, q = build()
    pair, images = integer_pair(p, q), images_of(p, 5)
    seen, state, means = q.ascend(torch.tensor(images).float()), None, []
    for group, each in enumerate(seen):
        means.append(q.posterior_given(group, state, each).mean)
        state = _below(p, group + 1, means[-1], state)
    z, features = pair.at_means(images)
    np.testing.assert_allclose(z / 2**12, torch.cat(means, 1), atol=0.02)
    np.testing.assert_allclose(features / 2**12, state, atol=0.02)


def test_latents_cost_what_the_normals_say() -> None:
    rng = np.random.default_rng(0)
    bits = np.array([0, 1, 3, 6, 10])
    latents = StandardLatents(bits, normal_cdf())
    loc, scale = rng.normal(size=(400, 5)), rng.uniform(0.2, 1, (400, 5))
    fine, inverse = np.round(2**14 * loc), np.round(2**20 / scale)
    stack = Stack.seeded(400 * 20)
    before = len(stack)
    chosen = latents.pop(stack, fine, inverse)
    popped = before - len(stack)
    exact = 0.0
    for d, b in enumerate(bits):
        edges = stats.norm.ppf(np.linspace(0, 1, 2**b + 1))
        lower, upper = edges[chosen[:, d]], edges[chosen[:, d] + 1]
        cdf = stats.norm(loc[:, d], scale[:, d]).cdf
        exact -= np.log2(cdf(upper) - cdf(lower)).sum()
        middles = stats.norm.ppf((chosen[:, d] + 0.5) / 2**b)
        np.testing.assert_allclose(latents.value_of(chosen)[:, d] / 2**12, middles, atol=1e-3)
    assert 32 * popped == pytest.approx(exact, rel=2e-3, abs=64)
    before = len(stack)
    latents.push_evenly(stack, chosen)
    assert 32 * (len(stack) - before) == pytest.approx(400 * bits.sum(), abs=64)
    assert np.array_equal(latents.pop_evenly(stack, 400), chosen)
    latents.push(stack, fine, inverse, chosen)
    assert stack.holds_seed(400 * 20)


@pytest.mark.parametrize("scale", [0.9999, 0.95, 0.9, 0.7, 0.5, 0.3, 0.2])
def test_bins_are_few_and_lose_little(scale) -> None:
    """Of x ~ N(e, v) with e ~ N(0, 1), where q is the posterior, of this scale, and -ELBO exact."""
    (bits,) = needed_bits(np.array([[2**20 / scale]]))
    assert lost(scale, bits) < 4e-4
    assert bits == 0 or lost(scale, max(bits - 3, 0)) > 4e-4


def lost(scale: float, bits: int) -> float:
    """How many nats more than -log p(x) it takes to code x ~ p(x) by bins, on average."""
    v = scale**2 / (1 - scale**2)
    x = stats.norm.ppf((np.arange(2000) + 0.5) / 2000)[:, None] * np.sqrt(1 + v)
    edges = stats.norm.ppf(np.arange(2**bits + 1) / 2**bits)
    values = stats.norm.ppf((np.arange(2**bits) + 0.5) / 2**bits)
    q = np.diff(stats.norm.cdf((edges - x * (1 - scale**2)) / scale), axis=1)
    logs = special.xlogy(q, q) + q * bits * log(2) - q * stats.norm.logpdf(x, values, np.sqrt(v))
    return (logs.sum(1) + stats.norm.logpdf(x[:, 0], 0, np.sqrt(1 + v))).mean()


@pytest.fixture(scope="module", params=[(Bernoulli, True), (BetaBinomial, False)])
def run(request, tmp_path_factory):
    likelihood, relative = request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ppl_vae.fit.draw_pictures", lambda run, rows: None)
        return tiny(
            tmp_path_factory.mktemp("runs") / "run",
            model=partial(TopDown, groups=[[2, 1], [1, 4]], width=8),
            guide=partial(Bidirectional, relative=relative),
            network=partial(Cells, channels=12, inner=6),
            likelihood=likelihood,
            learning_rate=0.01,
            epochs=8,
            device="cpu",
        )


def test_the_length_is_the_negative_elbo(run) -> None:
    pair = integer_pair(run.model, run.guide)
    images = run.data.test[:].to(torch.uint8).numpy()
    words, _ = encode(pair, images)
    with seeded(run.device, 0):
        elbo = estimate(run.model, run.guide, run.data.test, 50).elbo
    bits = -float(elbo.sum()) / log(2)
    assert 32 * len(words) < 1.02 * bits + 64
    assert 32 * len(words) > 0.98 * bits


def test_the_first_images_are_coded_without_many_bits() -> None:
    pair = finely(integer_pair(*build()), 10)
    images = np.random.default_rng(0).integers(0, 2, (2, *SHAPE)).astype(np.uint8)
    for count in (1, 2):
        words, batches = encode(pair, images[:count])
        assert 32 * len(words) < 1.5 * images[:count].size < pair.bits
        assert np.array_equal(decode(pair, words, count, batches), images[:count])


def test_latents_become_finer_as_the_stack_fills(monkeypatch) -> None:
    p, q = build(BetaBinomial)
    pair, seen = finely(integer_pair(p, q), 9), []
    push = Stack.push

    def spy(stack, symbols, masses, width):
        if width == 11:
            seen.append(int(symbols[0]))
        push(stack, symbols, masses, width)

    monkeypatch.setattr(Stack, "push", spy)
    encode(pair, images_of(p, 20))
    assert (seen[0], seen[-1]) == (9, 0)
    assert seen == sorted(seen, reverse=True)


FORGERIES = [
    (b'"sizes":[[1,1],', b'"sizes":[[0,1],'),
    (b'"sizes":[[1,1],', b'"sizes":[[100000,100000],'),
    (b'"sizes":[[1,1],', b'"sizes":[['),
    (b'"sizes":[[1,1],', b'"sizes":['),
    (b'"sizes":[[1,1],', b'"sizes":["1",'),
    *(
        (b'"width":5', b'"width":5,"largest":' + n)
        for n in (b"1", b"-5", b"1e400", b"3e7", b"1e12")
    ),
    (b'"width":5', b'"width":-5'),
    (b'"width":5', b'"width":5.5'),
    (b'"width":5', b'"width":500000000'),
    (b'"width":5', b'"width":null'),
    (b'"stride":[3,2]', b'"stride":[3]'),
    (b'"stride":[3,2]', b'"stride":[3,0]'),
    (b'"finest":[', b'"finest":[7,'),
    (b'"class":"TopDownNetworks"', b'"class":"Reshape"'),
    (b'"networks":{', b'"networks":1,"x":{'),
    (b"[2,12,8]", b"[2,120000,80000]"),
]


@pytest.mark.parametrize(("old", "new"), FORGERIES)
def test_a_forged_model_is_refused(old, new) -> None:
    pair = integer_pair(*build())
    images = np.zeros((3, *SHAPE), np.uint8)
    archive = Archive(archived(pair, InMemory(images, SHAPE, 2), embed_model=True))
    assert np.array_equal(next(blocks_of(archive, pair_in(archive, None)))[1], images)
    line, _, arrays = pair.data.partition(b"\n")
    assert old in line
    data = line.replace(old, new, 1) + b"\n" + arrays
    inside, packed = embedded(data)
    header = replace(archive.header, embedded=inside, model=sha256(data).hexdigest())
    forged = Archive(pack(header, packed, [archive.words(0).tobytes()]))
    with pytest.raises(InputError) as caught:
        pair_in(forged, None)
    assert "\n" not in str(caught.value)


def test_bits_beyond_the_finest_are_refused() -> None:
    pair = integer_pair(*build())
    square = replace(pair, finest=tuple(np.zeros((len(b), 2), int) for b in pair.finest))
    for forged in (finely(pair, -1), finely(pair, 11), square):
        with pytest.raises(InputError, match="damaged"):
            restored(forged.data)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"likelihood": Gaussian}, "Gaussian; train with --likelihood BetaBinomial"),
        ({"prior": Flow}, "prior StandardNormal.*Flow; train with --prior StandardNormal"),
    ],
)
def test_pairs_that_cannot_code_are_refused_with_a_remedy(options, said) -> None:
    with pytest.raises(InputError, match=said) as caught:
        integer_pair(*build(**options))
    assert "\n" not in str(caught.value)
