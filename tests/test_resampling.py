"""The gradient of the importance-weighted bound from a few of the draws."""

from functools import partial
from inspect import signature

import pytest
import torch
from comparing import seeded
from torch import Tensor, nn

from guides import (
    IAF,
    BottomUp,
    ConditionalNormal,
    DiagonalNormal,
    FullRankNormal,
    Ladder,
    SemiAmortized,
)
from models import MLP, VAE, Conditional, Hierarchical, Mixture, Spec
from ppl_vae.densities.resampling import resampled_terms, systematic
from ppl_vae.fit import main
from ppl_vae.objectives import ELBO, IWAE
from ppl_vae.objectives.objective import Objective
from ppl_vae.training.step import SVIStep

WEIGHTS = torch.tensor([[0.5, 0.1, 1.0], [0.3, 0.0, 0.0], [0.2, 0.9, 0.0]])
PAIRS = [
    (VAE, DiagonalNormal),
    (VAE, FullRankNormal),
    (Hierarchical, BottomUp),
    (Hierarchical, Ladder),
    (partial(Mixture, components=3), DiagonalNormal),
    (VAE, IAF),
    (VAE, partial(SemiAmortized, guide=DiagonalNormal, steps=1)),
]


@pytest.mark.parametrize("count", [1, 3, 4])
def test_each_draw_is_chosen_as_often_as_it_weighs(count: int) -> None:
    """On average N v_k times, and never further from that than to the next whole number."""
    repeats = 20_000
    chosen = systematic(WEIGHTS.repeat(1, repeats), count)
    assert chosen.shape == (count, 3 * repeats)
    times = torch.stack([(chosen == k).sum(0) for k in range(3)]).reshape(3, repeats, 3).double()
    expected = count * WEIGHTS.double()
    part = expected - expected.floor()
    assert ((times - expected[:, None]).abs() < 1).all()
    error = (part * (1 - part) / repeats).sqrt()
    assert ((times.mean(1) - expected).abs() <= 5 * error + 1e-6).all()


def test_rounding_cannot_choose_a_draw_that_is_not_there() -> None:
    weights = torch.full((3, 100_000), 1 / 3 - 1e-4)  # sums to less than 1
    assert systematic(weights, 2).max() == 2


def of(model_kind, guide_kind) -> tuple[nn.Module, nn.Module, Tensor]:
    torch.manual_seed(0)
    spec = Spec((1, 3, 2), "binary", 2)
    network = partial(MLP, hidden=(5,))
    model = model_kind(spec, network=network)
    wanted = {"model": model} if "model" in signature(guide_kind).parameters else {}
    pair = nn.ModuleList([model, guide_kind(spec, network=network, **wanted)]).double()
    return pair[0], pair[1], torch.rand(4, 1, 3, 2, dtype=torch.float64).round()


def gradients(objective: Objective, pair, repeats: int) -> Tensor:
    parameters = [*pair[0].parameters(), *pair[1].parameters()]
    options = {"allow_unused": True, "materialize_grads": True}
    rows = [
        torch.autograd.grad(objective.loss(*pair), parameters, **options) for _ in range(repeats)
    ]
    return torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])


@pytest.mark.parametrize(("model_kind", "guide_kind"), PAIRS)
def test_the_bound_is_that_of_all_draws(model_kind, guide_kind) -> None:
    pair = of(model_kind, guide_kind)
    every, few = (seeded(IWAE(6, "plain", n).loss, *pair) for n in (None, 2))
    torch.testing.assert_close(few, every, rtol=1e-12, atol=0)
    assert few.requires_grad


@pytest.mark.parametrize(("model_kind", "guide_kind"), PAIRS)
def test_the_chosen_are_draws_with_their_weights(model_kind, guide_kind) -> None:
    log_weights, terms = seeded(resampled_terms, *of(model_kind, guide_kind), 6, 3)
    assert log_weights.shape == (6, 4)
    assert terms.log_weights.shape == (3, 4)
    matches = (terms.log_weights[:, None] - log_weights).abs() < 1e-9  # (N, K, B)
    assert matches.any(1).all()


@pytest.mark.parametrize("gradient", ["plain", "stl", "dreg"])
@pytest.mark.parametrize(("model_kind", "guide_kind"), PAIRS)
def test_many_chosen_draws_give_the_gradient_of_all(model_kind, guide_kind, gradient) -> None:
    """Each draw is chosen N v_k times, give or take one: an error of K / N at most."""
    pair = of(model_kind, guide_kind)
    every, few = (seeded(gradients, IWAE(4, gradient, n), pair, 1) for n in (None, 20_000))
    torch.testing.assert_close(few, every, rtol=1e-3, atol=1e-3)
    assert every.abs().max() > 0.1


@pytest.mark.parametrize("pair_kind", [PAIRS[0], PAIRS[2]])
def test_the_gradient_of_two_has_the_mean_of_that_of_all(pair_kind) -> None:
    pair, repeats = of(*pair_kind), 400
    every, few = (gradients(IWAE(6, "dreg", n), pair, repeats) for n in (None, 2))
    error = ((every.var(0) + few.var(0)) / repeats).sqrt()
    z = (few.mean(0) - every.mean(0)) / error.clamp(min=1e-12)
    assert z.abs().max() < 5
    assert few.var(0).sum() > 1.2 * every.var(0).sum()  # or they would be the same thing


def test_one_draw_is_the_elbo() -> None:
    pair = of(VAE, DiagonalNormal)
    one, elbo = (seeded(gradients, each, pair, 1) for each in (IWAE(1, "plain", 1), ELBO()))
    torch.testing.assert_close(one, elbo, rtol=1e-10, atol=1e-12)


def test_only_the_chosen_draws_go_back_through_the_decoder() -> None:
    model, guide, x = of(VAE, DiagonalNormal)
    sizes: list[tuple[bool, int]] = []
    model.decoder.register_forward_hook(
        lambda module, inputs, output: sizes.append((output.requires_grad, inputs[0].shape[0]))
    )
    resampled_terms(model, guide, x, 7, 2)
    assert sizes == [(False, 7), (True, 2)]


def test_labels_reach_both_programs() -> None:
    torch.manual_seed(0)
    spec = Spec((1, 3, 2), "binary", 2, classes=3)
    network = partial(MLP, hidden=(5,))
    parts = [Conditional(spec, network=network), ConditionalNormal(spec, network=network)]
    pair = nn.ModuleList(parts).double()
    x, y = torch.rand(4, 1, 3, 2, dtype=torch.float64).round(), torch.tensor([0, 1, 2, 0])
    every, few = (
        seeded(gradients, IWAE(4, "dreg", n), (pair[0], pair[1], x, y), 1) for n in (None, 20_000)
    )
    torch.testing.assert_close(few, every, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_step_compiles(precision) -> None:
    spec = Spec((1, 4, 4), "binary", 2)
    network = partial(MLP, hidden=(16,))
    torch.manual_seed(0)
    model, guide = VAE(spec, network=network), DiagonalNormal(spec, network=network)
    step = SVIStep(model, guide, IWAE(20, "dreg", 4), precision)
    x = torch.eye(2).repeat_interleave(8, 1).reshape(2, 1, 4, 4).repeat(25, 1, 1, 1)
    step.compile((x,))
    assert step.compiled
    before = float(step((x,), 1e-2))
    for _ in range(100):
        last = float(step((x,), 1e-2))
    assert last < before / 2


def test_a_guide_with_a_discrete_site_is_refused_before_training(capsys, tmp_path) -> None:
    pair = ["--model", "SemiSupervised", "--guide", "SemiSupervisedNormal", "--labels", "100"]
    with pytest.raises(SystemExit) as left:
        main(
            [*pair, "--objective", "IWAE", "--objective.resampled", "2", "--run", f"{tmp_path}/run"]
        )
    assert left.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: IWAE cannot be computed")
    assert error.endswith("takes every class instead of drawing one; leave resampled out")
    assert not list(tmp_path.iterdir())


def test_no_draws_are_refused() -> None:
    with pytest.raises(ValueError, match="resampled"):
        IWAE(6, "plain", 0)
