"""Groups of latents on feature maps, against a joint normal, a VAE and each other."""

import re
from functools import partial
from math import log, sqrt

import numpy as np
import pytest
import scipy.stats
import torch
from comparing import loss_and_gradients
from pyro import poutine
from torch import Tensor

from guides import Bidirectional, DiagonalNormal
from models import MLP, VAE, Cells, Linear, Residual, Spec, TopDown
from models.feature_maps import map_sizes, usual_groups
from ppl_vae.compiler.comparison import with_gradients
from ppl_vae.densities.weights import log_terms, pair_sites
from ppl_vae.errors import InputError
from ppl_vae.objectives import ELBO, IWAE, Beta, WakeSleep
from ppl_vae.objectives.estimators import distortion_and_rates
from ppl_vae.objectives.objective import PairLoss
from ppl_vae.pairs.checks import check_pair

SPEC = Spec((1, 4, 2), "real", 1)
GROUPS = [[2, 1], [1, 2]]  # z1 and z2 of one dimension, z3 of two
WIDTH = 3


@pytest.fixture
def model() -> TopDown:
    """Linear-Gaussian: affine cells, scales that depend on nothing above."""
    torch.manual_seed(0)
    built = TopDown(SPEC, network=Linear, groups=GROUPS, width=WIDTH).double()
    with torch.no_grad():
        for network, scales in zip(built.down, (1, 2), strict=True):
            network.linear.weight.normal_(0, 0.7)
            network.linear.weight[-scales:] = 0
            network.linear.bias[-scales:] = torch.linspace(-0.4, 0.3, scales)
        built.decoder.linear.weight.normal_(0, 0.4)
        built.likelihood.log_scale.fill_(log(1.2))
    return built


def _joint(model: TopDown) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of (z1, z2, z3, x), by carrying both through the affine maps.

    The columns of each matrix are the standard normals e1, e2, e3 (2), e0 (8), and a constant.
    """
    (a1, b1), (a2, b2), (a3, b3) = (
        (network.linear.weight.detach(), network.linear.bias.detach())
        for network in (*model.down, model.decoder)
    )
    basis = torch.eye(13).double()
    constant = basis[12:]

    def scale(bias: Tensor) -> Tensor:
        return (5 * torch.tanh(bias / 5)).exp()[:, None]

    z1 = basis[:1]
    s2 = a1 @ z1 + b1[:, None] * constant
    h2 = s2[:WIDTH]
    z2 = s2[WIDTH : WIDTH + 1] + scale(b1[-1:]) * basis[1:2]
    s3 = a2 @ torch.cat([h2, z2]) + b2[:, None] * constant
    h3 = s3[: 2 * WIDTH] + h2.repeat_interleave(2, 0)  # each feature on a map of 2 x 1
    z3 = s3[2 * WIDTH : 2 * WIDTH + 2] + scale(b2[-2:]) * basis[2:4]
    noise = (model.likelihood.floor + model.likelihood.log_scale.detach().exp()).item()
    x = a3 @ torch.cat([h3, z3]) + b3[:, None] * constant + noise * basis[4:12]
    mix = torch.cat([z1, z2, z3, x])
    return mix[:, 12].numpy(), (mix[:, :12] @ mix[:, :12].T).numpy()


def test_the_joint_density_is_scipys(model):
    assert model.sizes == [(1, 1), (1, 1), (2, 1)]
    x = torch.randn(5, 1, 4, 2, dtype=torch.float64)
    values = torch.randn(5, model.code_dim).double().split(model.dims, dim=-1)
    z = dict(zip(model.latents, values, strict=True))
    trace = poutine.trace(poutine.condition(model, data=z)).get_trace(x)
    trace.compute_log_prob()
    got = sum(trace.nodes[site]["log_prob"] for site in (*model.latents, "x")).detach()
    values = torch.cat([*values, x.flatten(1)], 1).numpy()
    np.testing.assert_allclose(got, scipy.stats.multivariate_normal.logpdf(values, *_joint(model)))


def test_importance_sampling_finds_log_p_and_the_posterior(model):
    torch.manual_seed(1)
    x = model(size=3).detach()
    guide = Bidirectional(SPEC, model, network=Linear).double()
    with torch.no_grad():
        for parameter in guide.parameters():  # near p(z), so that no weight is many times the mean
            parameter *= 0.3
        terms = log_terms(model, guide, x, 100_000)
    mean, covariance = _joint(model)
    flat = x.flatten(1).numpy()
    exact = scipy.stats.multivariate_normal.logpdf(flat, mean[4:], covariance[4:, 4:])
    relative = (terms.log_weights - torch.as_tensor(exact)).exp()  # of mean one
    error = relative.std(0) / sqrt(len(relative))
    assert (error < 0.05).all()
    assert ((relative.mean(0) - 1).abs() < 3 * error).all()
    assert (terms.log_weights.mean(0).numpy() < exact).all()
    gain = covariance[:4, 4:] @ np.linalg.inv(covariance[4:, 4:])
    expected = torch.as_tensor(mean[:4] + (flat - mean[4:]) @ gain.T)
    away = relative[..., None] * (model.code(terms.latents) - expected)  # of mean zero
    error = away.std(0) / sqrt(len(away))
    assert (away.mean(0).abs() < 3 * error).all()
    spread = np.sqrt(np.diag(covariance[:4, :4] - gain @ covariance[4:, :4]))
    assert (error.numpy() < 0.1 * spread).all()


@pytest.mark.parametrize("network", [MLP, Residual, Cells])
def test_one_group_at_one_by_one_is_a_vae_to_the_bit(network):
    spec = Spec((1, 8, 8), "binary", 5)
    vae, diagonal = VAE(spec, network=network), DiagonalNormal(spec, network=network)
    model = TopDown(spec, network=network, groups=[[1, 1]])
    guide = Bidirectional(spec, model, network=network)
    model.load_state_dict(vae.state_dict())
    guide.load_state_dict(diagonal.state_dict())
    x = vae(size=6)
    results = []
    for pair in ((vae, diagonal), (model, guide)):
        torch.manual_seed(3)
        results.append([*loss_and_gradients(ELBO().loss, pair, *pair, x), pair[0](size=4)])
    for first, second in zip(*results, strict=True):
        assert torch.equal(torch.as_tensor(first), torch.as_tensor(second))


def test_the_rates_of_the_groups_sum_to_the_rate(model):
    x = model(size=4).detach()
    guide = Bidirectional(SPEC, model, network=Linear).double()
    torch.manual_seed(2)
    distortion, rates = distortion_and_rates(model, guide, (x,), 7, analytic_kl=False)
    torch.manual_seed(2)
    terms = log_terms(model, guide, x, 7)
    rate = (terms.log_guide - terms.log_prior).mean()
    assert {site: len(groups) for site, groups in rates.items()} == {"z1": 1, "z2": 1, "z3": 2}
    torch.testing.assert_close(sum(groups.sum() for groups in rates.values()), rate)
    torch.testing.assert_close(distortion, -terms.log_likelihood.mean())


@pytest.mark.parametrize("relative", [True, False])
def test_a_guide_relative_to_p_costs_nothing_where_it_adds_nothing(model, relative):
    """Below the first group, where q is that of a VAE."""
    guide = Bidirectional(SPEC, model, network=Linear, relative=relative).double()
    with torch.no_grad():
        for network in guide.joining:
            network.linear.weight.zero_()
            network.linear.bias.zero_()
        drawn, nodes = pair_sites(model, guide, (model(size=4),), 3)
    for site in ("z2", "z3"):
        q, p = (there[site]["fn"].log_prob(nodes[site]["value"]) for there in (drawn, nodes))
        assert torch.equal(q, p) is relative


def test_the_code_of_all_groups_decodes_as_the_program_does(model):
    trace = poutine.trace(model).get_trace(size=3)
    values = {site: trace.nodes[site]["value"] for site in model.latents}
    z = model.code(values)
    assert z.shape == (3, model.code_dim) == (3, 4)
    assert torch.equal(model.decode(z).base_dist.loc, trace.nodes["x"]["fn"].base_dist.loc)


def test_an_entry_of_the_code_is_named_by_its_site(model):
    latents = {site: torch.full((dim,), number) for number, (site, dim) in
               enumerate(zip(model.latents, model.dims, strict=True))}  # fmt: skip
    places = {site: iter(range(dim)) for site, dim in zip(model.latents, model.dims, strict=True)}
    for place, number in enumerate(model.code(latents).tolist()):
        site = model.latents[int(number)]
        assert model.latent_name(place) == f"{site}[{next(places[site])}]"
    with pytest.raises(IndexError):
        model.latent_name(model.code_dim)
    assert VAE(SPEC).latent_name(3) == "$z_{3}$"


@pytest.mark.parametrize(
    ("objective", "calls_of_each"),
    [
        (ELBO(), 1),
        (ELBO(particles=2), 1),
        (Beta(beta=2.0, analytic_kl=True), 1),
        (IWAE(3), 1),
        (IWAE(3, "dreg"), 3),  # in the guide, in the model, and where parameters are constant
        (WakeSleep(3), 4),  # without gradients in the guide and the dream, with them in the others
    ],
)
def test_states_are_computed_once_with_the_gradients_of_twice(
    model, objective, calls_of_each, monkeypatch
):
    pair = PairLoss(model, Bidirectional(SPEC, model, network=Linear).double(), objective)
    x = torch.randn(5, *SPEC.image_shape).double()
    calls: list[object] = []
    for network in model.down:
        network.register_forward_hook(lambda network, *_: calls.append(network))
    torch.manual_seed(1)
    once, gradients = with_gradients(pair)(x)
    assert len(calls) == calls_of_each * len(model.down)
    monkeypatch.setattr("models.top_down.shared", lambda function, _, *inputs: function(*inputs))
    torch.manual_seed(1)
    twice, expected = with_gradients(pair)(x)
    assert torch.equal(once, twice)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-10, atol=1e-12)


def test_features_reach_the_image_past_all_cells():
    """With cells that add nothing, what the first group writes is on the last map, repeated."""
    spec = Spec((1, 12, 8), "binary", 2)
    model = TopDown(spec, network=Cells, groups=[[1, 1], [2, 3], [1, 6]], width=4)
    with torch.no_grad():
        for network in list(model.down)[1:]:
            for parameter in network.layers[-1].parameters():
                parameter.zero_()
    z = torch.randn(3, 2)
    state = model.descend(1, z, None)
    first = state[:, :4]
    for group, size in ((2, (3, 2)), (3, (6, 4))):
        assert state.shape[-2:] == model.sizes[group - 1]
        state = model.descend(group, torch.randn(3, 2 * state[0, 0].numel()), state)
        assert state.shape == (3, 8, *size)
    expected = first.repeat_interleave(2, -1).repeat_interleave(2, -2)
    assert torch.equal(state[:, :4], expected)


def test_at_first_every_group_sees_the_image_and_is_seen_in_it():
    """Else the first groups would be too faint to be learned, and the last would do all."""
    torch.manual_seed(0)
    spec = Spec((1, 16, 16), "binary", 4)
    model = TopDown(spec, network=Cells, groups=[[2, 1], [2, 4], [2, 8]])
    guide = Bidirectional(spec, model, network=Cells)
    z = torch.randn(50, model.code_dim)
    before = model.decode(z).base_dist.logits
    changes = []
    for latents in z.split(model.dims, dim=-1):
        kept = latents.clone()
        latents.normal_()  # a part of z
        changes.append((model.decode(z).base_dist.logits - before).std().item())
        latents.copy_(kept)
    # Where all networks begin small, the ratio is 0.03, and the first group sees 1e-7 of an image.
    assert min(changes) > 0.2 * max(changes) > 0.01
    seen = guide.ascend(torch.rand(50, 1, 16, 16).round())
    assert min(part.std(0).mean().item() for part in seen) > 1e-3
    prior, posterior = _scales(model, guide)
    for scale in (*prior[1:], *posterior[1:]):
        assert (scale.log().abs() < 0.3).all()


def _scales(model: TopDown, guide: Bidirectional) -> tuple[list[Tensor], list[Tensor]]:
    """Of p(z_l | z_<l) and q(z_l | z_<l, x)."""
    x = torch.rand(50, *model.spec.image_shape).round()
    drawn, nodes = pair_sites(model, guide, (x,), 1)
    prior, posterior = (
        [sites[name]["fn"].base_dist.scale for name in model.latents] for sites in (nodes, drawn)
    )
    return prior, posterior


def test_maps_keep_the_proportions_of_the_image():
    assert map_sizes([[2, 1], [1, 7], [1, 14]], (1, 28, 20)) == [(1, 1), (1, 1), (7, 5), (14, 10)]
    assert map_sizes([[1, 4], [1, 8], [1, 32]], (3, 32, 32)) == [(4, 4), (8, 8), (32, 32)]
    assert usual_groups((1, 28, 28)) == [[1, 1], [2, 7], [2, 14]]
    assert usual_groups((3, 64, 64)) == [[1, 1], [2, 16], [2, 32]]
    assert usual_groups((2, 5, 4)) == [[1, 1], [2, 5]]
    assert usual_groups((1, 1, 1)) == [[1, 1]]


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ([[1, 1], [1, 3]], "out of 1, 7, 14, 28, at which images of 28 x 20 divide; got 1, 3"),
        ([[1, 7], [1, 1]], "to grow, each a multiple of the one before"),
        ([[1, 7], [2, 7]], "got 7, 7"),
        ([[0, 1]], "expected each of groups of sizes >= 1; got [0, 1]"),
        ([[1]], "at least 2"),
        ([[1, 1, 1]], r"pairs [how many, size]; got [1, 1, 1]"),
        ([], r"pairs [how many, size]; got []"),
        ([[1, 1], [200, 7]], "expected at most 200 groups; got 201"),
        ([1, 7], "expected each of groups as a list of whole numbers >= 1; got 1"),
    ],
)
def test_groups_that_an_image_has_no_place_for_are_refused(groups, said):
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        TopDown(Spec((1, 28, 20), "binary", 2), groups=groups)
    assert "\n" not in str(caught.value)


def test_a_pair_that_does_not_fit_is_refused_with_the_guide_that_does(model):
    x = torch.randn(3, 1, 4, 2).double()
    with pytest.raises(InputError, match=r"guides for these: Bidirectional$"):
        check_pair(model, DiagonalNormal(SPEC).double(), x)
    with pytest.raises(ValueError, match="expected a model of groups, such as TopDown; got VAE"):
        Bidirectional(SPEC, VAE(SPEC))


def test_a_network_that_is_not_of_maps_is_refused():
    with pytest.raises(ValueError, match=r"expected an image \(C, H, W\) on one side.*Cells"):
        TopDown(SPEC, network=Residual, groups=GROUPS)


def test_the_guide_leaves_the_models_parameters_to_the_model(model):
    guide = Bidirectional(SPEC, model, network=partial(MLP, hidden=(5,)))
    assert not {id(p) for p in guide.parameters()} & {id(p) for p in model.parameters()}


def test_cells_go_between_maps_whose_sizes_divide():
    assert Cells((3, 12, 8), (5, 6, 4))(torch.randn(2, 3, 12, 8)).shape == (2, 5, 6, 4)
    assert Cells((4,), (5, 6, 4))(torch.randn(7, 2, 4)).shape == (7, 2, 5, 6, 4)
    assert Cells((3, 6, 4), (4,))(torch.randn(3, 6, 4)).shape == (4,)
    with pytest.raises(ValueError, match="multiple of 4 x 4; got 6 x 6"):
        Cells((3, 6, 6), (3, 4, 4))


def test_missing_pixels_are_left_out_of_the_likelihood():
    spec = Spec((1, 4, 2), "binary", 1, holes=True)
    model = TopDown(spec, network=Linear, groups=GROUPS, width=WIDTH)
    guide = Bidirectional(spec, model, network=Linear)
    x = torch.rand(4, 1, 4, 2).round()
    x[:, :, 2:] = torch.nan
    drawn, nodes = pair_sites(model, guide, (x,), 3)
    probabilities = nodes["x"]["fn"].base_dist.probs
    got = nodes["x"]["fn"].log_prob(x)
    seen = torch.distributions.Bernoulli(probabilities[..., :2, :]).log_prob(x[:, :, :2])
    torch.testing.assert_close(got, seen.sum((-3, -2, -1)))
    assert all(drawn[site]["value"].isfinite().all() for site in model.latents)
