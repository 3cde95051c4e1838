"""From pieces to a model/guide pair."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from guides import Guide
from models import Domain, Model, Spec
from ppl_vae.data import DataSet
from ppl_vae.errors import InputError
from ppl_vae.pieces import class_of

__all__ = ["build_pair", "choose_domain"]

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
    """Constructs the model and the guide, each from those pieces that its constructor names.

    Args:
        spec: What they are built for.
        pieces: The classes by role; None for a piece leaves it to the model's default.

    Raises:
        InputError: If a constructor refuses its options, or a piece was chosen that the model has
            no place for.
    """
    built = {
        role: _construct(pieces[role], spec=spec)
        for role in ("prior", "likelihood")
        if pieces[role] is not None
    }
    model = pieces["model"]
    refused = sorted(set(built) - set(inspect.signature(model).parameters))
    if refused:
        raise InputError(
            f"{class_of(model).__name__} has no {refused[0]} to choose; leave out --{refused[0]}"
        )
    network = pieces["network"]
    return (
        _construct(model, spec=spec, network=network, **built),
        _construct(pieces["guide"], spec=spec, network=network),
    )


def _construct(piece: Callable[..., Any], **available: Any) -> Any:
    accepted = inspect.signature(piece).parameters
    try:
        return piece(**{name: value for name, value in available.items() if name in accepted})
    except (TypeError, ValueError) as error:
        raise InputError(f"{class_of(piece).__name__}: {error}") from error
