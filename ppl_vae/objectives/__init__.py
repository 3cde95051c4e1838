"""Objectives: the losses of stochastic variational inference.

Every class here can be named on the command line and replaced by your own subclass of
`Objective`.
"""

from ppl_vae.objectives.beta import Beta
from ppl_vae.objectives.elbo import ELBO
from ppl_vae.objectives.iwae import IWAE
from ppl_vae.objectives.mmd import MMD
from ppl_vae.objectives.objective import Objective
from ppl_vae.objectives.renyi import Renyi
from ppl_vae.objectives.score_function import ScoreFunction
from ppl_vae.objectives.semi_supervised import SemiSupervisedELBO
from ppl_vae.objectives.wake_sleep import WakeSleep

__all__ = [
    "ELBO",
    "IWAE",
    "MMD",
    "Beta",
    "Objective",
    "Renyi",
    "ScoreFunction",
    "SemiSupervisedELBO",
    "WakeSleep",
]
