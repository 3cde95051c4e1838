"""Every pair is traced as itself, for the combinations of the contract's tests.

In the cases that always run each guide meets all models and priors that it fits, and each piece is
there. The others are `slow`.
"""

from dataclasses import replace

import pytest
import torch
from cases import CASES, CLASSES, TRACED, Case, Piece, natural_objective, with_labels
from comparing import outcome

from guides import SemiAmortized
from ppl_vae.compiler.comparison import with_gradients
from ppl_vae.compiler.compiling import trace_programs
from ppl_vae.objectives.objective import PairLoss

SMALLER = {SemiAmortized: {"steps": 1}}  # each step is traced with its own backward pass


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=() if case in TRACED else pytest.mark.slow) for case in CASES],
    ids=str,
)
def test_a_traced_pair_has_the_loss_and_gradients_of_its_programs(case: Case) -> None:
    options = SMALLER.get(case.guide.kind, {})
    case = replace(case, guide=Piece(case.guide.kind, case.guide.options | options))
    model, guide = (program.double() for program in case.build())
    pair = PairLoss(model, guide, natural_objective(case))
    graph = trace_programs(pair, with_labels(model, case.data().double()))
    # Neither image nor label is as it was when the graph was made.
    fresh = with_labels(model, case.data().double())
    fresh = (fresh[0], *((y.flip(0) + (y.flip(0) >= 0)) % CLASSES for y in fresh[1:]))
    expected = outcome(with_gradients(pair), *fresh)
    assert expected["loss"].dtype == torch.float64
    assert expected["loss"].isfinite()
    got = outcome(graph, *fresh)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        scale = value.abs().max().item()
        torch.testing.assert_close(got[name], value, rtol=0, atol=1e-12 * scale)
