"""From pieces to a model/guide pair."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from guides import Guide
from models import Domain, Model, Spec
from ppl_vae.data import DataSet
from ppl_vae.errors import InputError, reason
from ppl_vae.pairs.pieces import ROLES, class_of

__all__ = ["build_pair", "check_pieces", "choose_domain"]

Pieces = Mapping[str, Any]

_SHOWN = 60  # characters of something that was given in place of a piece


def check_pieces(pieces: Pieces) -> None:
    """Refuses a piece that is not of its role's kind, or not in the form that `fit` takes.

    Raises:
        InputError: If an objective or data set is no instance, or another piece is no class.
    """
    for role, piece in pieces.items():
        base: Any = ROLES[role]
        given_as_instance = role in ("data", "objective")
        if piece is None or (given_as_instance and isinstance(piece, base)):
            continue
        cls = class_of(piece)
        of_role = issubclass(cls, base)
        if given_as_instance:
            expected = f"an instance of a subclass of {base.__name__}"
            remedy = f"; write {cls.__name__}(), with its options" if of_role else ""
        elif of_role and (inspect.isclass(piece) or isinstance(piece, partial)):
            continue
        else:
            expected = f"a subclass of {base.__name__}, or functools.partial of one with options"
            remedy = f"; write {cls.__name__}, without its arguments" if of_role else ""
        got = reason(ValueError(repr(piece)))
        got = got if len(got) <= _SHOWN else f"{got[:_SHOWN]}..."
        raise InputError(f"{role}: expected {expected}; got {got}{remedy}")


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
    built = {role: _construct(pieces[role], spec=specs[role]) for role in reversed(chosen)}
    generative = _construct(model, spec=spec, network=network, **built)
    guide = _construct(pieces["guide"], spec=spec, network=network, model=generative)
    generative.connect(guide.amortized_posterior)
    return generative, guide


def _prior_spec(model: Callable[..., Model], spec: Spec) -> Spec:
    options = model.keywords if isinstance(model, partial) else {}
    cls: Any = class_of(model)
    try:
        return cls.prior_spec(spec, **options)
    except (TypeError, ValueError) as error:
        raise InputError(f"{cls.__name__}: {error}") from error


def _construct(piece: Callable[..., Any], **available: Any) -> Any:
    accepted = inspect.signature(piece).parameters
    try:
        return piece(**{name: value for name, value in available.items() if name in accepted})
    except (TypeError, ValueError) as error:
        raise InputError(f"{class_of(piece).__name__}: {error}") from error
