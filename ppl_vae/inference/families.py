"""A guide's family of distributions with parameters that are free for each datum."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import sqrt
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import biject_to
from torch.func import functional_call, vmap
from torch.overrides import TorchFunctionMode

from ppl_vae.densities.joint import Joint
from ppl_vae.densities.sites import Latents
from ppl_vae.errors import InputError

__all__ = ["Draw", "Family", "Features", "family_by", "family_of"]

_FEW = 100  # parameters that may all take whole steps of Adam at once
_FEATURES = "features of x"  # no parameter of a guide is named so

Features = dict[str, Tensor]
Draw = Callable[[Features, Tensor, int], tuple[Latents, Tensor]]


@dataclass(frozen=True)
class Family:
    """Distributions over the latents of each datum, by real parameters without constraints.

    Attributes:
        features: The parameters to start from, those of q(z|x); each has B rows.
        draw: `draw(features, rows, K)` draws z_1, ..., z_K, each site (K, R, ...), for the R data
            that `rows` numbers, with the features of those, and gives log q(z_k), (K, R) in nats.
            Its gradient comes through z_k alone: the other part has mean zero, and without it the
            gradient has no variance where q is the posterior (Roeder, Wu and Duvenaud, 2017).
        steps: What a learning rate is to be multiplied by, where it is not 1: less for the weights
            of networks, many of which move one number together.
    """

    features: Features
    draw: Draw
    steps: dict[str, float] = field(default_factory=dict)


def family_of(joint: Joint) -> Family:
    """The family of a pair's guide.

    In this order:

    1. `guide.posterior_of`, with features that start at `guide.encode(x)`; where it has parameters
       of its own, as a flow's networks are, with a copy of those for each datum;
    2. the distributions at the guide's sites, rebuilt from those of their parameters that follow
       from x, where none follows from a draw: any program will do;
    3. a copy of all the guide's parameters for each datum, where the guide is a module: any
       program again, at the memory that the copies take.

    Raises:
        InputError: If none of these is possible, or the distributions are not reparameterised.
    """
    if joint.place is not None:
        raise InputError(
            "expected a guide that is a function of the data; this one has parameters for each of "
            "them, so that nothing is amortized; take them as one datum (as_one=True)"
        )
    for route in (_by_features, _by_sites, _by_copies):
        family = route(joint)
        if family is not None:
            return _checked(family)
    raise InputError(
        "expected a guide whose family can be fitted to one datum: with encode and posterior_of, "
        "with distributions whose parameters follow from x, or a module; or give features= and "
        "family="
    )


def family_by(
    posterior_of: Callable[[Tensor], Any], features: Tensor, name: str, event: torch.Size
) -> Family:
    """The family of one site by a function from features (R, F) to distributions (R,).

    It starts at `features`, (B, F).
    """

    def draw(features: Features, rows: Tensor, particles: int) -> tuple[Latents, Tensor]:
        with pyro.validation_enabled(False):
            z = posterior_of(features[_FEATURES]).rsample(torch.Size((particles,)))
            log_q = posterior_of(features[_FEATURES].detach()).log_prob(z)
        return {name: z.reshape(particles, len(rows), *event)}, log_q

    return _checked(Family({_FEATURES: features.detach()}, draw))


def _checked(family: Family) -> Family:
    """The family itself, if gradients reach its draws; else an InputError."""
    start = {name: value[:1].clone().requires_grad_() for name, value in family.features.items()}
    row = torch.zeros(1, dtype=torch.long, device=next(iter(start.values())).device)
    try:
        latents, _ = family.draw(start, row, 1)
    except NotImplementedError as error:
        raise InputError(f"expected a guide with reparameterised draws; {error}") from error
    if not all(value.requires_grad for value in latents.values()):
        raise InputError(
            "expected a guide with reparameterised draws (rsample) to fit to one datum"
        )
    return family


def _by_features(joint: Joint) -> Family | None:
    guide: Any = joint.guide
    if not hasattr(guide, "posterior_of") or len(joint.sites) + len(joint.batch) != 2:
        return None  # features are of x alone
    try:
        features = guide.encode(joint.batch[0]).detach()
        guide.posterior_of(features[:1])
    except NotImplementedError:
        return None
    (name,) = joint.sites
    own = _own_parameters(guide, features) if isinstance(joint.guide, nn.Module) else {}
    if own:
        return _by_flow(guide, features, own, name, joint.sites[name])
    return family_by(guide.posterior_of, features, name, joint.sites[name])


def _own_parameters(guide: Any, features: Tensor) -> Features:
    """Those parameters of a guide that q depends on where its features are given."""
    trained = _trained(guide)
    with torch.enable_grad(), pyro.validation_enabled(False):
        posterior = guide.posterior_of(features[:1])
        if not posterior.has_rsample:
            return {}
        z = posterior.rsample()
        result = z.sum() + posterior.log_prob(z).sum()
    if not trained or not result.requires_grad:
        return {}
    found = torch.autograd.grad(result, list(trained.values()), allow_unused=True)
    return {
        name: value
        for (name, value), gradient in zip(trained.items(), found, strict=True)
        if gradient is not None
    }


def _by_flow(guide: Any, features: Tensor, own: Features, name: str, event: torch.Size) -> Family:
    """A family of one site with features, and parameters of the guide's own, for each datum."""

    def draw(features: Features, rows: Tensor, particles: int) -> tuple[Latents, Tensor]:
        shape = torch.Size((particles,))

        def sample(own: Features, f: Tensor) -> Tensor:
            return _with(guide, own, lambda: guide.posterior_of(f).rsample(shape))

        def score(own: Features, z: Tensor, f: Tensor) -> Tensor:
            return _with(guide, own, lambda: guide.posterior_of(f.detach()).log_prob(z))

        own = {key: value for key, value in features.items() if key != _FEATURES}
        z, log_q = _for_each(sample, score, own, features[_FEATURES])
        return {name: z.reshape(particles, len(rows), *event)}, log_q

    family = _of_copies(own, len(features), draw)
    return _checked(replace(family, features={_FEATURES: features.detach(), **family.features}))


def _by_sites(joint: Joint) -> Family | None:
    if joint.as_one or joint.structure.auxiliary:
        return None
    batch = tuple(
        part.detach().clone().requires_grad_() if part.is_floating_point() else part
        for part in joint.batch
    )
    features: Features = {}
    sites: dict[str, _Site] = {}
    with torch.enable_grad(), pyro.validation_enabled(False):
        first, second = (poutine.trace(joint.guide).get_trace(*batch) for _ in range(2))
    for name in joint.sites:
        ours, again = (_parameters(trace.nodes[name]["fn"]) for trace in (first, second))
        if ours is None or again is None or ours[0].keys() != again[0].keys():
            return None
        for argument, (value, constraint) in ours[0].items():
            if not torch.equal(value, again[0][argument][0]):
                return None
            if value.requires_grad:
                features[f"{name}.{argument}"] = biject_to(constraint).inv(value).detach()
        if not any(key.startswith(f"{name}.") for key in features):
            return None
        sites[name] = ours

    def q(name: str, features: Features, rows: Tensor) -> Any:
        values, rebuild = sites[name]
        arguments = {
            argument: biject_to(constraint)(features[key])
            if (key := f"{name}.{argument}") in features
            else value.detach()[rows]
            for argument, (value, constraint) in values.items()
        }
        with pyro.validation_enabled(False):
            return rebuild(**arguments)

    def draw(features: Features, rows: Tensor, particles: int) -> tuple[Latents, Tensor]:
        constant = {key: value.detach() for key, value in features.items()}
        shape = torch.Size((particles,))
        latents = {name: q(name, features, rows).rsample(shape) for name in sites}
        log_q = [q(name, constant, rows).log_prob(latents[name]) for name in sites]
        return latents, torch.stack(log_q).sum(0)

    return Family(features, draw)


_Site = tuple[dict[str, tuple[Tensor, Any]], Callable[..., Any]]


def _parameters(fn: Any) -> _Site | None:
    """A distribution's parameters with their constraints, and how it is built from such."""
    independent = 0
    while isinstance(fn, torch.distributions.Independent):
        independent, fn = independent + fn.reinterpreted_batch_ndims, fn.base_dist
    kind, names = type(fn), list(fn.arg_constraints)
    if isinstance(fn, torch.distributions.MultivariateNormal):
        names = ["loc", "scale_tril"]  # the others are the same matrix
    if not names or not fn.has_rsample:
        return None
    values = {}
    for name in names:
        value, constraint = getattr(fn, name), fn.arg_constraints[name]
        event = value.shape[value.dim() - constraint.event_dim :]
        values[name] = (value.expand(*fn.batch_shape, *event), constraint)  # a row for each datum
    try:
        kind(**{name: value for name, (value, _) in values.items()})
    except (TypeError, ValueError, NotImplementedError):
        return None
    return values, lambda **arguments: kind(**arguments).to_event(independent)


def _by_copies(joint: Joint) -> Family | None:
    guide = joint.guide
    if not isinstance(guide, nn.Module) or not _trained(guide):
        return None

    def pair(row: tuple[Tensor, ...]) -> Joint:
        return joint if joint.as_one else replace(joint, batch=tuple(p[None] for p in row))

    def draw(features: Features, rows: Tensor, particles: int) -> tuple[Latents, Tensor]:
        def sample(own: Features, *row: Tensor) -> Latents:
            return _with(guide, own, lambda: pair(row).draw(particles)[0])

        def score(own: Features, latents: Latents, *row: Tensor) -> Tensor:
            return _with(guide, own, lambda: pair(row).log_guide(latents))

        data = () if joint.as_one else tuple(part[rows] for part in joint.batch)
        latents, log_q = _for_each(sample, score, features, *data)
        return {name: value.flatten(1, 2) for name, value in latents.items()}, log_q.flatten(1, 2)

    return _of_copies(_trained(guide), len(joint), draw)


def _trained(guide: nn.Module) -> Features:
    return {name: value for name, value in guide.named_parameters() if value.requires_grad}


def _of_copies(parameters: Features, count: int, draw: Draw) -> Family:
    """A family with a copy of each parameter for each datum.

    Adam's steps of P of them are shorter by sqrt(100 / P): it moves each by its rate, whatever
    their gradients, and what they feed grows with their number.
    """
    copies = {k: v.detach().expand(count, *v.shape).clone() for k, v in parameters.items()}
    number = sum(value.numel() for value in parameters.values())
    return Family(copies, draw, dict.fromkeys(copies, min(1.0, sqrt(_FEW / number))))


def _for_each(
    sample: Callable[..., Any], score: Callable[..., Tensor], own: Features, *data: Tensor
) -> tuple[Any, Tensor]:
    """Draws by each datum's own parameters, and their densities by the same, held constant."""

    def one(own: Features, *row: Tensor) -> tuple[Any, Tensor]:
        z = sample(own, *row)
        return z, score({name: value.detach() for name, value in own.items()}, z, *row)

    with _NoiseForEach(), pyro.validation_enabled(False):
        return vmap(one, out_dims=1, randomness="different")(own, *data)


def _with(guide: nn.Module, values: Features, work: Callable[[], Any]) -> Any:
    """Does all of the work with other parameters: a flow looks at them for its density too."""
    named = {f"guide.{name}": value for name, value in values.items()}
    # Pyro's store has the parameters of a guide that stock SVI trained, and prefers its own.
    store, own = pyro.get_param_store(), set(guide.parameters())
    state = store.get_state()
    state["params"] = {k: value for k, value in state["params"].items() if value not in own}
    with store.scope(state), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not registered in the param store")
        return functional_call(_Working(guide), named, (work,))


class _Working(nn.Module):
    def __init__(self, guide: nn.Module) -> None:
        super().__init__()
        self.guide = guide

    def forward(self, work: Callable[[], Any]) -> Any:
        return work()


class _NoiseForEach(TorchFunctionMode):
    """Lets distributions draw under vmap, which forbids filling a shared tensor with noise."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is Tensor.normal_ and len(args) == 1 and not kwargs:
            return torch.randn_like(args[0])
        if function is Tensor.uniform_:
            empty, low, high = (*args, *((0.0, 1.0)[len(args) - 1 :]))[:3]
            return low + (high - low) * torch.rand_like(empty)
        return function(*args, **(kwargs or {}))
