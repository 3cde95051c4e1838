"""The wake-sleep algorithm."""

from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor
from torch.func import functional_call

from guides import Guide
from models import Model
from models.ranges import check_count
from ppl_vae.densities.weights import Scoring, log_terms
from ppl_vae.objectives.objective import Objective

__all__ = ["WakeSleep"]


@dataclass(frozen=True)
class WakeSleep(Objective):
    """-E_q[log p(x, z)] for the model and -E_p[log q(z|x)] for the guide, as one loss.

    Hinton, Dayan, Frey and Neal (1995), the baseline of Kingma and Welling (2014, section 5). The
    wake phase draws z ~ q(z|x) for each datum and follows the gradient of log p(x, z) in theta
    alone; the sleep phase draws as many (z, x) from the model and follows that of log q(z|x) in
    phi alone. No gradient goes through a draw, so neither program need be reparameterised. The
    second term is the expected KL(p(z|x) || q(z|x)) over the model's own images up to a constant,
    the reverse of the bound's: the sum is not a bound, though both have their optimum where q is
    the posterior of the true model.

    Args:
        particles: Draws of z for each datum in the wake phase.

    Raises:
        ValueError: If particles < 1.
    """

    particles: int = 1

    def __post_init__(self) -> None:
        check_count("particles", self.particles)

    def loss(self, model: Model, guide: Guide, x: Tensor) -> Tensor:
        guide.check_density("the sleep phase")
        constant: Any = torch.no_grad()(guide.__call__)  # log_terms needs only a program
        terms = log_terms(model, constant, x, self.particles)
        terms.check_draws("the wake phase")
        wake = -(terms.log_prior + terms.log_likelihood).mean()
        return wake + _sleep(model, guide, x)


def _sleep(model: Model, guide: Guide, x: Tensor) -> Tensor:
    """-log q(z|x), averaged over as many (z, x) from the model as there are images in x.

    Images from the model have the missing pixels of the data.
    """
    with torch.no_grad():
        dream = poutine.trace(poutine.uncondition(model)).get_trace(x)
    drawn: dict[str, Any] = dict(dream.nodes)
    # q(z|x) may depend on the model's parameters too, which are no part of phi.
    constants = {f"model.{name}": value.detach() for name, value in model.named_parameters()}
    dreamt = drawn["x"]["value"]
    if model.spec.holes:  # or the guide would be taught on whole images alone
        dreamt = dreamt.masked_fill(x.isnan(), torch.nan)
    inputs = (dream, model.latents, torch.Size((len(x),)), dreamt)
    return -functional_call(Scoring(model, guide), constants, inputs).mean()
