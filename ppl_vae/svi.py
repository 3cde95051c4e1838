"""One step of stochastic variational inference."""

from math import cos, pi

import torch
from torch import Tensor, nn

from guides import Guide
from models import Model
from ppl_vae.objectives import Objective

__all__ = ["SVIStep", "learning_rate_at", "pair_modules"]


def pair_modules(model: Model, guide: Guide) -> nn.ModuleDict:
    """Both as one module: they may share parameters, which then are listed once."""
    return nn.ModuleDict({"model": model, "guide": guide})


class SVIStep:
    """Follows the gradient of an objective for all parameters of a pair, with Adam.

    Kingma and Welling (2014), algorithm 1, with the optimizer of Kingma and Ba (2015).

    Args:
        model: p(x, z).
        guide: q(z|x).
        objective: The loss.
    """

    def __init__(self, model: Model, guide: Guide, objective: Objective) -> None:
        self.model = model
        self.guide = guide
        self.objective = objective
        self.pair = pair_modules(model, guide)
        self.parameters = dict(self.pair.named_parameters())
        self.optimizer = torch.optim.Adam(self.parameters.values(), fused=True)

    def __call__(self, x: Tensor, learning_rate: float) -> Tensor:
        """Updates the parameters once.

        Args:
            x: A minibatch of images (B, C, H, W).
            learning_rate: Adam's step size.

        Returns:
            The loss before the update, a detached scalar in nats per datum.
        """
        self.optimizer.param_groups[0]["lr"] = learning_rate
        self.optimizer.zero_grad()
        loss = self.objective.loss(self.model, self.guide, x)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def state(self) -> dict[str, Tensor]:
        """Adam's moments and counts by parameter; empty before the first step."""
        return {
            f"{key}.{name}": value
            for name, parameter in self.parameters.items()
            for key, value in self.optimizer.state.get(parameter, {}).items()
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Puts back what `state` returned."""
        self.optimizer.state.clear()
        for name, parameter in self.parameters.items():
            for key in ("step", "exp_avg", "exp_avg_sq"):
                if f"{key}.{name}" in state:
                    value = state[f"{key}.{name}"].to(parameter.device)
                    self.optimizer.state[parameter][key] = value


def learning_rate_at(step: int, peak: float, warmup_steps: int, total_steps: int) -> float:
    """Linear warm-up to the peak, then cosine decay to zero at the end of the run.

    Loshchilov and Hutter (2017), equation (5), for one cycle.

    Args:
        step: Updates done so far.
        peak: The largest learning rate.
        warmup_steps: Updates over which it is reached.
        total_steps: Updates in the whole run.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return peak * (1 + cos(pi * done)) / 2
