"""Every pair is staged as itself or refused, for the combinations of the contract's tests.

Any two pieces that fit meet in the cases that always run, but a guide that is refused is in one
case, and the 500 pseudo-inputs of a VampPrior do not go through the deepest network, which takes a
fifth of the time of all. The others are `slow`.
"""

import pytest
import torch
from test_contract import CASES, CLASSES, COVERING, Case, with_labels
from torch import Tensor

from guides import SemiAmortized, SemiSupervisedNormal
from models import Residual, VampPrior
from ppl_vae.compiler.comparison import Gradients, NotStageable, with_gradients
from ppl_vae.compiler.trial_runs import stage
from ppl_vae.objectives import ELBO, Objective, SemiSupervisedELBO
from ppl_vae.objectives.objective import PairLoss

# They take gradients in their forward pass, which the tracer of it does not follow.
REFUSED = (SemiAmortized,)

ALWAYS = {
    case
    for case in COVERING
    if case.guide.kind not in REFUSED and not {VampPrior, Residual} <= {p.kind for p in case.pieces}
} | {next(case for case in CASES if case.guide.kind is kind) for kind in REFUSED}


def natural_objective(case: Case) -> Objective:
    """That of the pair; with the classifier's loss where there are labels to train it on."""
    supervised = case.guide.kind is SemiSupervisedNormal and case.model.kind.labelled
    return SemiSupervisedELBO() if supervised else ELBO()


def seeded(run: Gradients, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor | None]]:
    torch.manual_seed(7)
    return run(*batch)


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=() if case in ALWAYS else pytest.mark.slow) for case in CASES],
    ids=str,
)
def test_a_staged_pair_has_the_loss_and_gradients_of_its_programs(case: Case) -> None:
    model, guide = (program.double() for program in case.build())
    objective = natural_objective(case)
    batch = with_labels(model, case.data().double())
    if case.guide.kind in REFUSED:
        with pytest.raises(NotStageable, match="cannot be traced"):
            stage(model, guide, objective, batch)
        return
    eager = PairLoss(model, guide, objective)
    staged = stage(model, guide, objective, batch)
    # Neither image nor label is as it was when the graph was made.
    fresh = with_labels(model, case.data().double())
    fresh = (fresh[0], *((y.flip(0) + (y.flip(0) >= 0)) % CLASSES for y in fresh[1:]))
    loss, gradients = seeded(with_gradients(eager), fresh)
    got, of_staged = seeded(with_gradients(eager, staged), fresh)
    assert loss.dtype == torch.float64
    assert loss.isfinite()
    torch.testing.assert_close(got, loss, rtol=1e-12, atol=0)
    assert of_staged.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert gradient is not None, name
        scale = gradient.abs().max().item()
        torch.testing.assert_close(of_staged[name], gradient, rtol=0, atol=1e-12 * scale)
