"""The inference side: q(z|x) as Pyro programs.

Every class here can be named on the command line and replaced by one's own subclass of `Guide`.
"""

from guides.delta import Delta
from guides.diagonal_normal import DiagonalNormal
from guides.full_rank_normal import FullRankNormal
from guides.guide import Guide
from guides.iaf import IAF

__all__ = ["IAF", "Delta", "DiagonalNormal", "FullRankNormal", "Guide"]
