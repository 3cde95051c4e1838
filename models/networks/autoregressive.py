"""Flows whose Jacobian is triangular: each entry is scaled and shifted by those before it."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial

import torch
from pyro.nn import AutoRegressiveNN, ConditionalAutoRegressiveNN
from torch import Tensor, nn
from torch.distributions import Transform, constraints

from models.ranges import check_count, check_sizes

__all__ = ["AffineAutoregressive", "masked_networks"]

Affine = Callable[[Tensor], tuple[Tensor, Tensor]]


def masked_networks(
    flows: int, size: int, hidden: Sequence[int], context: int = 0
) -> tuple[nn.ModuleList, list[list[int]]]:
    """Networks with two outputs for each entry, computed from the entries before it alone.

    Masked as in Germain, Gregor, Murray and Larochelle (2015); every second one has the entries
    in reverse order.

    Args:
        flows: How many networks.
        size: D, entries of the vector.
        hidden: Widths of the hidden layers.
        context: Length of a vector that every entry may be computed from besides.

    Returns:
        The networks, and the order of the entries for each.

    Raises:
        ValueError: If flows < 1, there is no hidden layer, or one has fewer units than D.
    """
    check_count("flows", flows)
    check_sizes("hidden", hidden)
    if not hidden or min(hidden) < size:
        raise ValueError(
            f"expected hidden layers of at least latent_dim = {size} units, so that each entry "
            f"has one; got {list(hidden)}"
        )
    orders = [list(range(size)), list(reversed(range(size)))]
    orders = [orders[flow % 2] for flow in range(flows)]
    networks = nn.ModuleList()
    with warnings.catch_warnings():
        # One entry has none before it; with a context, and in a stack, that is no mistake.
        warnings.filterwarnings("ignore", message=".*input_dim = 1")
        build: Callable[..., nn.Module] = (
            partial(ConditionalAutoRegressiveNN, size, context)
            if context
            else partial(AutoRegressiveNN, size)
        )
        for order in orders:
            permutation = torch.tensor(order)
            networks.append(build([*hidden], permutation=permutation, nonlinearity=nn.ELU()))
    return networks, orders


class AffineAutoregressive(Transform):
    """y_i = exp(s_i) x_i + t_i, with s_i and t_i computed from the x_j before i alone.

    log |det dy/dx| = sum_i s_i (Kingma et al., 2016, equations 10 and 11). y takes one evaluation
    of the network; x from a y that was not computed here takes D, one for each entry in turn.

    Args:
        affine: Maps x (..., D) to t and s, each (..., D).
        order: The entries, each after those that it depends on. A list: a tensor would be read
            on the host in every pass, where no tracer can follow.
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, affine: Affine, order: Sequence[int]) -> None:
        super().__init__(cache_size=1)
        self.affine = affine
        self.order = order
        self._known: tuple[Tensor, Tensor] | None = None  # the last x, and its s

    def _call(self, x: Tensor) -> Tensor:
        shift, log_scale = self.affine(x)
        self._known = x, log_scale
        return log_scale.exp() * x + shift

    def _inverse(self, y: Tensor) -> Tensor:
        x, entries = torch.zeros_like(y), torch.arange(y.shape[-1], device=y.device)
        for entry in self.order:
            shift, log_scale = self.affine(x)
            x = torch.where(entries == entry, (y - shift) * (-log_scale).exp(), x)
        return x

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """sum_i s_i, (...,)."""
        if self._known is None or self._known[0] is not x:
            self._known = x, self.affine(x)[1]
        return self._known[1].sum(-1)
