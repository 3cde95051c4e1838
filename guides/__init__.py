"""The inference side: q(z|x) as Pyro programs.

Every class here can be named on the command line and replaced by your own subclass of `Guide`.
"""

from guides.bidirectional import Bidirectional
from guides.bottom_up import BottomUp
from guides.classifying_normal import ClassifyingNormal
from guides.conditional_normal import ConditionalNormal
from guides.delta import Delta
from guides.diagonal_normal import DiagonalNormal
from guides.full_rank_normal import FullRankNormal
from guides.guide import Guide
from guides.iaf import IAF
from guides.ladder import Ladder
from guides.semi_amortized import SemiAmortized
from guides.semi_supervised_normal import SemiSupervisedNormal

__all__ = [
    "IAF",
    "Bidirectional",
    "BottomUp",
    "ClassifyingNormal",
    "ConditionalNormal",
    "Delta",
    "DiagonalNormal",
    "FullRankNormal",
    "Guide",
    "Ladder",
    "SemiAmortized",
    "SemiSupervisedNormal",
]
