"""Networks and functions in whole numbers, against floating point and exact arithmetic."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import special, stats

from models import MLP, Cells, Convolutional, Linear, MaxPooling, Network, Residual
from ppl_vae.coding.fixed_point import LARGEST, Affine, compute, prove
from ppl_vae.coding.latents import BINS, between, inverse_scale, standard_bins
from ppl_vae.coding.networks import layers_of
from ppl_vae.coding.tables import ACTIVATIONS, MASS, activation_table, normal_cdf, sigmoid, tabulate
from ppl_vae.errors import InputError

UNIT = 2**12
IMAGE, VECTOR = (2, 9, 7), (5,)

FLOATING: dict[str, Callable] = {
    "Tanh": np.tanh,
    "ELU": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "GELU": lambda x: x * special.ndtr(x),
    "SiLU": lambda x: x * special.expit(x),
    "Softplus": lambda x: np.logaddexp(0, x),
}

NETWORKS = [
    Linear,
    MLP,
    *(lambda i, o, a=a: MLP(i, o, (20, 10), a) for a in ("relu", "leaky_relu", "elu", "gelu")),
    Convolutional,
    lambda i, o: Convolutional(i, o, (4, 6), 5, 3, 8, "softplus"),
    lambda i, o: Residual(i, o, (4, 6, 6), 2, 8),
    lambda i, o: Cells(i, o, 6, 4, 2),
]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_tables_are_the_functions_rounded_to_the_nearest(name: str) -> None:
    table = activation_table(name)
    x = np.arange(-16, 16 + 2**-9, 2**-9)
    assert np.abs(table.values - UNIT * FLOATING[name](x)).max() <= 0.5 + 1e-6
    beyond = np.array([-40.0, 40.0])
    ends = FLOATING[name](beyond) if name != "GELU" else np.array([0, 40.0])
    np.testing.assert_allclose(table(UNIT * beyond) / UNIT, ends, atol=2 / UNIT)


def test_the_distribution_functions_are_those_of_scipy() -> None:
    x = np.arange(-16, 16 + 2**-9, 2**-9)
    for table, function in ((normal_cdf(), special.ndtr), (tabulate(sigmoid, MASS), special.expit)):
        assert np.abs(table.values - 2**MASS * function(x)).max() <= 0.5 + 1e-6
        fine = np.arange(-16, 16 + 2**-14, 2**-14)
        assert np.abs(table.finely - 2**MASS * function(fine)).max() < 2
        assert (np.diff(table.finely) >= 0).all()


@pytest.mark.parametrize(
    ("build", "inputs", "outputs"),
    [
        *((build, *shapes) for build in NETWORKS for shapes in ((IMAGE, VECTOR), (VECTOR, IMAGE))),
        (Cells, (2, 12, 6), (3, 4, 3)),  # strides of 3 and 2
        (Cells, (2, 4, 3), (3, 12, 6)),
        (Cells, (2, 6, 1), (3, 3, 1)),  # kernels of 3 x 1
    ],
)
def test_networks_agree_with_floating_point(build, inputs, outputs) -> None:
    network: Network = build(inputs, outputs)
    if isinstance(network, Cells):  # whose outputs begin near 0
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    x = torch.randn(6, *inputs).mul(UNIT).round()
    expected = network(x / UNIT).detach().numpy()
    layers = layers_of(network)
    found = compute(layers, x.double().numpy())
    assert (found == found.round()).all()
    assert found.shape == (6, *outputs)
    np.testing.assert_allclose(found / UNIT, expected, atol=0.004)
    assert np.abs(found).max() <= prove(layers, int(x.abs().max()))
    one_by_one = np.concatenate([compute(layers, row[None]) for row in x.double().numpy()])
    assert np.array_equal(one_by_one, found)


def test_a_layer_is_exact_where_floating_point_would_round() -> None:
    # Sums of up to 2^52, which float64 products in another order, and float32, get right only
    # because nothing is rounded; Python's integers are the oracle.
    rng = np.random.default_rng(0)
    weight = rng.integers(-(2**20), 2**20, (4, 500))
    bias = rng.integers(-(2**40), 2**40, 4)
    x = rng.integers(-(2**22), 2**22, (3, 500))
    layer = Affine(weight, bias)
    layer.bound(2**22, LARGEST)
    exact = x.astype(object) @ weight.T.astype(object) + bias.astype(object)
    nearest = [[(int(value) + 2**13) // 2**14 for value in row] for row in exact]
    for largest in (2**24, 2**28):
        cut = np.clip(np.array(nearest, np.float64), -largest, largest)
        assert (np.abs(cut) == largest).any()
        assert np.array_equal(layer(x.astype(np.float64), largest), cut)


def test_the_first_layer_takes_up_a_factor_of_the_inputs() -> None:
    network = MLP(IMAGE, VECTOR)
    x = torch.randint(256, (4, *IMAGE))
    expected = network(x / 255).detach().numpy()
    found = compute(layers_of(network, scale=256 / 255), 16.0 * x.numpy())
    np.testing.assert_allclose(found / UNIT, expected, atol=0.004)


def test_a_sum_that_could_be_rounded_is_refused() -> None:
    network = Linear(IMAGE, VECTOR)
    with torch.no_grad():
        network.linear.weight.fill_(2.0**22)
    with pytest.raises(InputError, match=r"2\^53"):
        prove(layers_of(network), UNIT)
    with torch.no_grad():
        network.linear.weight.fill_(torch.nan)
    with pytest.raises(InputError, match="finite"):
        layers_of(network)


def test_a_network_without_such_a_form_is_refused_with_those_that_have_one() -> None:
    with pytest.raises(
        InputError, match=r"MLP, Linear, Convolutional, Residual or Cells.*MaxPooling"
    ):
        layers_of(MaxPooling((1, 16, 16), (4,)))


def test_masses_of_a_normal_are_those_of_scipy() -> None:
    bins = standard_bins()
    loc, log_variance = np.array([0.3, -1.0, 2.5, 40.0]), np.array([0.0, -3.0, -6.0, 0.0])
    inverse = inverse_scale()(UNIT * log_variance)
    masses = between(normal_cdf(), bins.edges, 2**14 * loc, inverse)
    edges = np.concatenate([[-np.inf], bins.edges[0] / 2**14, [np.inf]])
    scale = np.exp(log_variance / 2)[:, None]
    expected = np.diff(stats.norm.cdf((edges - loc[:, None]) / scale))
    assert (masses.sum(1) == 2**MASS).all()
    np.testing.assert_allclose(masses / 2**MASS, expected, atol=2e-5)


def test_bins_have_equal_mass_under_the_prior_and_their_median_as_value() -> None:
    bins = standard_bins()
    shares = np.arange(1, BINS) / BINS
    np.testing.assert_allclose(stats.norm.cdf(bins.edges[0] / 2**14), shares, atol=3e-5)
    middles = (np.arange(BINS) + 0.5) / BINS
    np.testing.assert_allclose(stats.norm.cdf(bins.values[0] / UNIT), middles, atol=1e-4)
