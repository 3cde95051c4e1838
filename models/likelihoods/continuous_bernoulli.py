"""The likelihood of intensities in [0, 1], for which a Bernoulli is often misused."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from models.likelihoods.likelihood import Likelihood
from models.spec import Domain, Shape

__all__ = ["ContinuousBernoulli", "LogitContinuousBernoulli"]

_STEEPEST = 15.0  # of a start: a value that no image has yet costs up to as many nats a pixel
_HALVINGS = 30

# L(r) in powers of r^2, from r^2 on: B_2k / (2k (2k)!), Bernoulli's numbers B.
_SERIES = [
    1 / 24,
    -1 / 2880,
    1 / 181440,
    -1 / 9676800,
    1 / 479001600,
    -691 / 15692092416000,
    1 / 1046139494400,
]
_SLOPES = [2 * (k + 1) * c for k, c in enumerate(_SERIES)]  # of L'(r) / r
_CURVATURES = [(2 * k + 1) * c for k, c in enumerate(_SLOPES)]  # of L''(r)


class LogitContinuousBernoulli(TorchDistribution):
    """p(x) = r exp(r x) / (exp(r) - 1) on [0, 1], r the logit: log p(x) = r (x - 1/2) - L(r).

    L(r) = log(sinh(r/2) / (r/2)). Torch's distribution of this name is a function of
    y = sigmoid(r), which rounds to 0 or 1: in float32 it is no density beyond a logit of 16. All
    here is computed from r, with gradients, at 0 as well.

    Args:
        logits: r, any real number.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"logits": constraints.real}
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, torch.Size(), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "LogitContinuousBernoulli":
        return LogitContinuousBernoulli(self.logits.expand(batch_shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return self.logits * (value - 0.5) - _log_sinh_ratio(self.logits)

    def icdf(self, value: Tensor) -> Tensor:
        """x = log(1 + u (exp(r) - 1)) / r, for u in [0, 1]."""
        u, logits = torch.broadcast_tensors(value, self.logits)
        variance = u * (1 - u)  # of a Bernoulli, whose cumulants K_n make x = sum_n K_n r^(n-1)/n!
        cumulants = [variance / 2, variance * (1 - 2 * u) / 6, variance * (1 - 6 * variance) / 24]

        def closed(r: Tensor) -> Tensor:
            # Measured from the end where the density is largest.
            size = r.abs()
            near, far = torch.where(r > 0, 1 - u, u), torch.where(r > 0, u, 1 - u)
            first = torch.log1p(near.clamp(max=0.5) * torch.expm1(-size))
            second = (far + near * (-size).exp()).clamp(min=torch.finfo(r.dtype).tiny).log()
            second = torch.where(far > 0, second, -size)  # exp(-size) rounds to 0 beyond 87
            distance = -torch.where(near < 0.5, first, second) / size
            return torch.where(r > 0, 1 - distance, distance)

        return _by_size(logits, 0.05, lambda r: u + r * _polynomial(cumulants, r), closed)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        shape = self._extended_shape(sample_shape)
        return self.icdf(torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device))

    @property
    def mean(self) -> Tensor:
        """E[x] = 1/2 + L'(r) = [r > 0] - 1/r + 1/(exp(r) - 1) for r < 0, and by symmetry."""

        def closed(r: Tensor) -> Tensor:
            return (r > 0).to(r) - 1 / r + r.sign() * _inverse_expm1(r.abs())

        return _by_size(self.logits, 1, lambda r: 0.5 + r * _polynomial(_SLOPES, r * r), closed)

    @property
    def variance(self) -> Tensor:
        """L''(r) = 1/r^2 - 1/(2 sinh(r/2))^2."""

        def closed(r: Tensor) -> Tensor:
            inverse = _inverse_expm1(r.abs())
            return r**-2 - inverse * (1 + inverse)

        return _by_size(self.logits, 1, lambda r: _polynomial(_CURVATURES, r * r), closed)


class ContinuousBernoulli(Likelihood):
    """p(x|z) = prod_i C(y_i) y_i^x_i (1 - y_i)^(1 - x_i) on [0, 1], y = sigmoid(features).

    Loaiza-Ganem and Cunningham (2019), equations (5) and (6). The constant
    C(y) = 2 artanh(1 - 2 y) / (1 - 2 y), 2 at y = 1/2, makes it a density.
    """

    domain: ClassVar[Domain] = "unit"

    @property
    def features(self) -> Shape:
        return self.spec.image_shape

    def forward(self, features: Tensor) -> TorchDistribution:
        return LogitContinuousBernoulli(features).to_event(3)

    def features_for_mean(self, mean: Tensor) -> Tensor:
        # E[x] grows with the logit; it has no inverse in closed form.
        low, high = torch.full_like(mean, -_STEEPEST), torch.full_like(mean, _STEEPEST)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            below = LogitContinuousBernoulli(middle).mean < mean
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2


def _log_sinh_ratio(r: Tensor) -> Tensor:
    """L(r) = log(sinh(r/2) / (r/2)), an even function, 0 at 0."""

    def closed(r: Tensor) -> Tensor:
        size = r.abs()
        return size / 2 + torch.log(-torch.expm1(-size)) - size.log()

    return _by_size(r, 1, lambda r: r * r * _polynomial(_SERIES, r * r), closed)


def _by_size(
    r: Tensor, limit: float, series: Callable[[Tensor], Tensor], closed: Callable[[Tensor], Tensor]
) -> Tensor:
    """`series` below a size of r, where `closed` cancels; each gets values of its own range."""
    small = r.abs() < limit
    return torch.where(
        small, series(torch.where(small, r, 0)), closed(torch.where(small, limit, r))
    )


def _polynomial(coefficients: list[Any], x: Tensor) -> Any:
    value = coefficients[-1]
    for coefficient in reversed(coefficients[:-1]):
        value = coefficient + x * value
    return value


def _inverse_expm1(size: Tensor) -> Tensor:
    """1 / (exp(a) - 1) for a > 0, without overflow in value or gradient."""
    return torch.exp(-size) / -torch.expm1(-size)
