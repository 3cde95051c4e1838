"""Draws of z that are constants, for gradients that go through densities alone."""

from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from guides import Guide
from models import Model
from ppl_vae.importance import LogTerms, log_terms

__all__ = ["constant_draws"]


def constant_draws(model: Model, guide: Guide, x: Tensor, particles: int) -> LogTerms:
    """The terms of the weights at draws of z ~ q(z|x) that no gradient goes through.

    That of log p(x, z) is for the model's parameters alone, that of log q(z|x) for the guide's.

    Args:
        model: p(x, z).
        guide: q(z|x), which need not be reparameterised.
        x: Images (B, C, H, W).
        particles: K, the number of draws for each datum.
    """
    with torch.no_grad(), pyro.plate("particles", particles, dim=-2):
        draws = poutine.trace(guide).get_trace(x)
    again: Any = poutine.replay(guide, draws)  # a program, which is all that is asked of it
    return log_terms(model, again, x, particles=particles)
