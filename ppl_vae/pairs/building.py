"""From pieces to a model/guide pair."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from guides import Guide
from models import Domain, Model, Network, NetworkFactory, Shape, Spec
from ppl_vae.data import DataSet
from ppl_vae.errors import InputError
from ppl_vae.pairs.pieces import class_of

__all__ = ["Pieces", "build_pair", "choose_domain"]

Pieces = Mapping[str, Any]


def choose_domain(pieces: Pieces) -> Domain:
    """The domain to load data in: the likelihood's, else the model's, else the data set's own."""
    for role in ("likelihood", "model"):
        domain = getattr(class_of(pieces[role]), "domain", None) if pieces[role] else None
        if domain is not None:
            return domain
    data: DataSet = pieces["data"]
    return data.default_domain


def build_pair(spec: Spec, pieces: Pieces) -> tuple[Model, Guide]:
    """Constructs the model, then the guide, each from the pieces that its constructor names.

    The guide may name the model too. Priors that are made of q(z|x) are connected to it.

    Args:
        spec: What they are built for.
        pieces: The classes by role; None for a piece leaves it to the model's default.

    Raises:
        InputError: If a constructor refuses its options, or a piece was chosen that the model has
            no place for.
    """
    model, network = pieces["model"], pieces["network"]
    chosen = [role for role in ("likelihood", "prior") if pieces[role] is not None]
    refused = sorted(set(chosen) - set(inspect.signature(model).parameters))
    if refused:
        raise InputError(
            f"{class_of(model).__name__} has no {refused[0]} to choose; leave out --{refused[0]}"
        )
    specs = {"prior": _prior_spec(model, spec), "likelihood": spec}
    built = {role: _construct(role, pieces[role], spec=specs[role]) for role in reversed(chosen)}
    network = partial(_construct_network, network)
    generative = _construct("model", model, spec=spec, network=network, **built)
    guide = _construct("guide", pieces["guide"], spec=spec, network=network, model=generative)
    generative.connect(guide.amortized_posterior)
    return generative, guide


def _prior_spec(model: Callable[..., Model], spec: Spec) -> Spec:
    options = model.keywords if isinstance(model, partial) else {}
    cls: Any = class_of(model)
    try:
        return cls.prior_spec(spec, **options)
    except (TypeError, ValueError) as error:
        raise InputError(f"--model {cls.__name__}: {error}") from error


def _construct(role: str, piece: Callable[..., Any], **available: Any) -> Any:
    accepted = inspect.signature(piece).parameters
    try:
        return piece(**{name: value for name, value in available.items() if name in accepted})
    except InputError:
        raise  # of a network inside of the piece
    except (TypeError, ValueError) as error:
        raise InputError(f"--{role} {class_of(piece).__name__}: {error}") from error


def _construct_network(network: NetworkFactory, inputs: Shape, outputs: Shape) -> Network:
    """A model or guide makes its networks itself; an option that they refuse is not its own."""
    return _construct("network", network, inputs=inputs, outputs=outputs)
