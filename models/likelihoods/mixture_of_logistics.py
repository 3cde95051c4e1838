"""A likelihood of bytes in colour: mixtures of logistic distributions, channel after channel."""

from math import log
from typing import Any, ClassVar

import torch
from pyro.distributions import Categorical, TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from models.likelihoods.discretized_logistic import LogisticBytes
from models.likelihoods.likelihood import Likelihood
from models.ranges import check_count, check_number
from models.spec import Domain, Shape, Spec

__all__ = ["MixtureOfLogisticBytes", "MixtureOfLogistics"]

_HALF = 127.5


class MixtureOfLogisticBytes(TorchDistribution):
    """P(v) = sum_k pi_k prod_c P(v_c; loc_kc(v_<c), scale_kc) at each pixel, v_c = 0, ..., 255.

    loc_kc(v_<c) = loc_kc + sum_(d < c) a_kcd (v_d - 127.5): a channel is centred with the help of
    those before it in the same pixel. Salimans, Karpathy, Chen and Kingma (2017), equations (2) and
    (3); each factor is a `LogisticBytes`.

    Args:
        logits: log pi, up to a constant, (..., K, H, W).
        loc: In bytes, (..., K, C, H, W).
        scale: In bytes, > 0, of the same shape.
        slopes: a, (..., K, C (C - 1) / 2, H, W): of channel 1 on 0, of 2 on 0, of 2 on 1, ...
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"scale": constraints.positive}
    support = constraints.independent(constraints.integer_interval(0, 255), 3)
    has_rsample = False

    def __init__(
        self,
        logits: Tensor,
        loc: Tensor,
        scale: Tensor,
        slopes: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        self.logits, self.loc, self.scale, self.slopes = logits, loc, scale, slopes
        super().__init__(loc.shape[:-4], loc.shape[-3:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "MixtureOfLogisticBytes":
        def expanded(part: Tensor) -> Tensor:
            return part.expand(*batch_shape, *part.shape[len(self.batch_shape) :])

        parts = self.logits, self.loc, self.scale, self.slopes
        logits, loc, scale, slopes = map(expanded, parts)
        return MixtureOfLogisticBytes(logits, loc, scale, slopes, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        seen = value.unsqueeze(-4)  # by every component
        channels = range(self.event_shape[0])
        terms = [self._channel(c, seen).log_prob(seen[..., c, :, :]) for c in channels]
        return (self.logits.log_softmax(-3) + sum(terms)).logsumexp(-3).sum((-2, -1))

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        own = self.expand(torch.Size(sample_shape) + self.batch_shape)
        component = Categorical(logits=own.logits.movedim(-3, -1)).sample()
        index = component[..., None, None, :, :]  # of one component, in every channel

        def chosen(part: Tensor) -> Tensor:
            return part.gather(-4, index.expand(*part.shape[:-4], 1, *part.shape[-3:]))

        logits = own.logits.new_zeros(component.unsqueeze(-3).shape)
        one = MixtureOfLogisticBytes(
            logits, chosen(own.loc), chosen(own.scale), chosen(own.slopes), validate_args=False
        )
        drawn = torch.zeros_like(one.loc)
        for channel in range(self.event_shape[0]):
            drawn[..., channel, :, :] = one._channel(channel, drawn).sample()
        return drawn.squeeze(-4)

    @property
    def mean(self) -> Tensor:
        """E[v] of images with one channel.

        Raises:
            NotImplementedError: Of more channels, where it has no closed form.
        """
        if self.event_shape[0] > 1:
            raise NotImplementedError("the mean of a channel given others has no closed form")
        means = LogisticBytes(self.loc, self.scale, validate_args=False).mean
        return (self.logits.softmax(-3).unsqueeze(-3) * means).sum(-4)

    def _channel(self, channel: int, seen: Tensor) -> LogisticBytes:
        """P(v_c | v_<c, k), (..., K, H, W), for v (..., K or 1, C, H, W)."""
        loc, first = self.loc[..., channel, :, :], channel * (channel - 1) // 2
        for before in range(channel):
            slope = self.slopes[..., first + before, :, :]
            loc = loc + slope * (seen[..., before, :, :] - _HALF)
        return LogisticBytes(loc, self.scale[..., channel, :, :], validate_args=False)


class MixtureOfLogistics(Likelihood):
    """p(x|z) = prod_i sum_k pi_ik prod_c P(x_ic; x_i,<c), masses on the bytes of each pixel.

    Salimans et al. (2017), section 2.1 and 2.2. The network gives the K weights as logits, the
    locations from the middle of the range in units of half of it, the logarithms of the scales,
    and the slopes on the channels before, as tanh(f).

    Args:
        spec: The data's shape and domain, and D.
        components: K.
        initial_scale: The scale where the network gives 0, in bytes.
        floor: The smallest scale allowed, in bytes.

    Raises:
        ValueError: If components < 1, or floor or initial_scale is not a number > 0.
    """

    domain: ClassVar[Domain] = "bytes"

    def __init__(
        self,
        spec: Spec,
        components: int = 5,
        initial_scale: float = 16.0,
        floor: float = 0.05,
    ) -> None:
        super().__init__(spec)
        check_count("components", components)
        for name, value in (("initial_scale", initial_scale), ("floor", floor)):
            check_number(name, value, above=0)
        self.components = components
        self.initial_log_scale = log(initial_scale)
        self.floor = floor
        channels = spec.image_shape[0]
        self.parts = [1, channels, channels, channels * (channels - 1) // 2]

    @property
    def features(self) -> Shape:
        return (self.components * sum(self.parts), *self.spec.image_shape[1:])

    def forward(self, features: Tensor) -> TorchDistribution:
        by_component = features.unflatten(-3, (self.components, -1))
        logits, location, log_scale, slopes = by_component.split(self.parts, dim=-3)
        scale = self.floor + (self.initial_log_scale + log_scale).exp()
        loc = _HALF * (1 + location)
        return MixtureOfLogisticBytes(logits.squeeze(-3), loc, scale, slopes.tanh())

    def features_for_mean(self, mean: Tensor) -> Tensor:
        # Nearly, as for one logistic; the slopes are 0.
        parts = [mean.new_zeros(count, *mean.shape[1:]) for count in self.parts]
        parts[1] = mean / _HALF - 1
        return torch.cat(parts).repeat(self.components, 1, 1)
