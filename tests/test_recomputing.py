"""Cells that compute their activations again, and what a step keeps for its backward pass."""

from functools import partial

import pytest
import torch
from comparing import loss_and_gradients

from guides import Bidirectional
from models import Cells, Spec, TopDown
from ppl_vae.compiler.compiling import trace_programs
from ppl_vae.objectives import ELBO
from ppl_vae.objectives.objective import PairLoss
from ppl_vae.training.precision import matrix_precision

SPEC = Spec((1, 8, 8), "binary", 2)


def pair(recompute: bool) -> tuple[TopDown, Bidirectional]:
    torch.manual_seed(0)
    network = partial(Cells, channels=8, inner=4, cells=2, recompute=recompute)
    model = TopDown(SPEC, network=network, groups=[[1, 1], [1, 4]], width=6)
    return model, Bidirectional(SPEC, model, network=network)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_loss_and_gradients_are_the_same_to_the_bit(precision):
    x = torch.rand(5, 1, 8, 8).round()
    results = []
    for recompute in (False, True):
        programs = pair(recompute)
        with matrix_precision(precision, PairLoss(*programs, ELBO())):
            results.append(loss_and_gradients(ELBO().loss, programs, *programs, x))
    for plain, again in zip(*results, strict=True):
        assert torch.equal(plain, again)


def test_they_are_traced_into_a_graph():
    x = torch.rand(5, 1, 8, 8).round()
    loss = PairLoss(*pair(True), ELBO())
    graph = trace_programs(loss, (x,))
    torch.manual_seed(3)
    value, gradients = graph(x)
    torch.manual_seed(3)
    assert torch.equal(value, loss(x))
    assert all(gradient.abs().sum() > 0 for gradient in gradients.values())
