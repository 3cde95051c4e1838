"""Muon: orthogonal updates for the weights of layers, AdamW for all other parameters.

A few directions dominate the gradient of a weight matrix, so that Adam hardly moves along the
others. An orthogonal update moves about as far along each.
"""

import dataclasses
from collections.abc import Mapping
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ppl_vae.training.adam import Adam, Rule

__all__ = ["Muon", "orthogonal", "weights_of_layers"]

_MOMENTUM = 0.95
_POLYNOMIAL = (3.4445, -4.7750, 2.0315)
_TIMES = 5  # that it is applied; a small singular value s becomes about 3.4 s each time
_ADAMS_RMS = 0.2  # of the entries of a usual update of Adam, in learning rates
_LEAST = 1e-7


class Muon(Adam):
    """Updates matrices W (rows, columns) by orthogonal ones, and other parameters by AdamW.

    With g the gradient of W and b = 0.95, m <- b m + (1 - b) g, and then W becomes

        (1 - rate * weight_decay) W
            - rate * 0.2 sqrt(max(rows, columns)) O(b m + (1 - b) g),

    where O(U S V^T) is about U V^T; Jordan et al. (2024), "Muon: an optimizer for hidden layers in
    neural networks". The factor gives the entries of an update the size that they have with Adam,
    so that one learning rate serves both; Liu et al. (2025), "Muon is scalable for LLM training",
    equation 4.

    Args:
        parameters: The parameters to update, by name; on one device.
        matrices: The names of those that are matrices. Filters of a convolution are one, flattened
            to (first dimension, all others).
        rule: The constants of AdamW; its weight decay is that of the matrices too.
        dtype: The type of the products that make a matrix orthogonal; its own by default.

    Raises:
        InputError: If the elements of a parameter that is no matrix do not fill its memory.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        matrices: frozenset[str],
        rule: Rule,
        dtype: torch.dtype | None = None,
    ) -> None:
        others = {name: p for name, p in parameters.items() if name not in matrices}
        device = next(iter(parameters.values())).device
        super().__init__(others, dataclasses.replace(rule, optimizer="AdamW"), device)
        self._matrices = {name: p for name, p in parameters.items() if name in matrices}
        self._momenta = {name: torch.zeros_like(p) for name, p in self._matrices.items()}
        self._weight_decay = rule.weight_decay
        self._dtype = dtype

    @torch.no_grad()
    def update(self, gradients: Mapping[str, Tensor | None], skip: Tensor | None = None) -> None:
        """Updates once the parameters that have a gradient.

        Args:
            gradients: By the parameters' names; None for one on which the loss does not depend.
            skip: A scalar; where it is 1.0 nothing changes. It is read on the device, without
                waiting for it. None is as good as 0.0.
        """
        super().update(gradients, skip)
        for name, matrix in self._matrices.items():
            gradient, momentum = gradients[name], self._momenta[name]
            if gradient is None:
                continue
            new_momentum = momentum.lerp(gradient, 1 - _MOMENTUM)
            ahead = gradient.lerp(new_momentum, _MOMENTUM).flatten(1)
            update = orthogonal(ahead, self._dtype).reshape(matrix.shape)
            scale = self._rate * (_ADAMS_RMS * sqrt(max(ahead.shape)))
            new_matrix = matrix * (1 - self._rate * self._weight_decay) - scale * update
            for old, new in ((momentum, new_momentum), (matrix, new_matrix)):
                old.copy_(new if skip is None else torch.where(skip > 0, old, new))

    def state(self) -> dict[str, Tensor]:
        """The momenta, as `momentum.NAME`, and the state of AdamW."""
        return super().state() | {
            f"momentum.{name}": value for name, value in self._momenta.items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Copies a result of `state` into the present tensors; those that it lacks begin again."""
        super().restore(state)
        for name, momentum in self._momenta.items():
            momentum.copy_(state.get(f"momentum.{name}", torch.zeros_like(momentum)))


def orthogonal(matrix: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """About U V^T of a matrix U S V^T, by products alone; Jordan et al. (2024).

    Singular values between 0.68 and 1.21 take the place of S, where that is at least 0.0016 times
    the matrix's Frobenius norm; smaller ones become smaller.

    Args:
        matrix: (rows, columns).
        dtype: The type of the products; the matrix's own by default.

    Returns:
        (rows, columns), of the matrix's own type.
    """
    first, second, third = _POLYNOMIAL
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide.to(dtype or matrix.dtype)
    x = x / x.norm().clamp(min=_LEAST)
    for _ in range(_TIMES):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=second, alpha=third), x, beta=first)
    return (x if wide is matrix else x.T).to(matrix.dtype)


def weights_of_layers(module: nn.Module) -> frozenset[str]:
    """The names of the weights of the linear layers and convolutions in a module.

    Not those of convolutions in groups, which are several matrices, nor of subclasses of
    `nn.Linear`, which may multiply by something else, such as the masked ones of a flow.
    """
    weights = {
        id(layer.weight)
        for layer in module.modules()
        if type(layer) is nn.Linear or (isinstance(layer, _ConvNd) and layer.groups == 1)
    }
    return frozenset(name for name, p in module.named_parameters() if id(p) in weights)
