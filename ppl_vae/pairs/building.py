"""From pieces to a model/guide pair."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from guides import Guide
from models import (
    DOMAINS,
    Bernoulli,
    Domain,
    Gaussian,
    Likelihood,
    Model,
    Network,
    NetworkFactory,
    Shape,
    Spec,
)
from ppl_vae.data import Data
from ppl_vae.errors import InputError, kind, reason
from ppl_vae.pairs.own_code import in_own_code
from ppl_vae.pairs.pieces import ROLES, check_options, class_of

__all__ = [
    "Pieces",
    "build_pair",
    "check_pieces",
    "choose_domain",
    "load_data",
    "usual_likelihood",
]

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
            expected, remedy = f"a subclass of {base.__name__}, or an instance of one", ""
        elif of_role and (inspect.isclass(piece) or isinstance(piece, partial)):
            check_options(role, piece)
            continue
        else:
            expected = f"a subclass of {base.__name__}, or functools.partial of one with options"
            remedy = f"; write {cls.__name__}, without its arguments" if of_role else ""
        got = reason(ValueError(repr(piece)))
        got = got if len(got) <= _SHOWN else f"{got[:_SHOWN]}..."
        raise InputError(f"{role}: expected {expected}; got {got}{remedy}")


def choose_domain(pieces: Pieces) -> Domain:
    """The domain to load data in: the likelihood's, else the model's, else the data set's own."""
    for role in ("likelihood", "model", "data"):
        name = "default_domain" if role == "data" else "domain"
        piece = pieces[role] if role == "data" or not pieces[role] else class_of(pieces[role])
        domain = getattr(piece, name, None)
        if domain in DOMAINS:
            return domain
        if domain is not None or (piece and role != "model"):
            raise InputError(
                f"{role} {class_of(piece).__name__}: expected its {name} as one of "
                f"{', '.join(DOMAINS)}; got {domain!r}"
            )
    raise AssertionError("a data set has a default domain")


def usual_likelihood(pieces: Pieces) -> Callable[[Spec], Likelihood]:
    """Bernoulli for data that are binary by default, and Gaussian for others.

    That of a table has a scale for each column, which begins at that of standardised columns.
    """
    if choose_domain(pieces) == "binary":
        return Bernoulli
    if pieces["data"].table:
        return partial(Gaussian, scale="pixel", initial_scale=1.0)
    return Gaussian


def load_data(pieces: Pieces, seed: int) -> Data:
    """Loads the data set in the domain that the pair is for.

    Args:
        pieces: The data set and the classes of the pair, by role.
        seed: The run's seed.

    Raises:
        InputError: If it cannot be read, its `load` returns something else, a split is empty, or
            pixels are missing in validation or test images alone.
    """
    domain = choose_domain(pieces)
    data = pieces["data"].load(domain, seed)
    name = f"data {type(pieces['data']).__name__}"
    if not isinstance(data, Data):
        raise InputError(
            f"{name}: expected load to return ppl_vae.data.Data; got {kind(data)}; pass "
            "the images in a Source to a Conversion, which makes it"
        )
    if data.domain != domain:
        raise InputError(
            f"{name}: expected load to return data of the domain {domain}, which it was asked for; "
            f"got {data.domain}"
        )
    counts = [len(split) for split in (data.train, data.validation, data.test)]
    if not all(counts):
        together, add = "", "images"
        if getattr(pieces["data"], "groups", None):
            add = "images in further groups"
        elif getattr(pieces["data"], "pages", None) == "all":
            together, add = ", as all pages of one file are in one split", "files"
        others = ""
        if hasattr(pieces["data"], "validation"):
            others = ", or name others with --data.validation and --data.test"
        raise InputError(
            f"{name}: expected training, validation and test images; got {counts[0]:,} / "
            f"{counts[1]:,} / {counts[2]:,}{together}; add {add}{others}"
        )
    if any(data.missing) and not data.holes:
        raise InputError(
            f"{name}: expected missing pixels (NaN) in training images too, so that the encoder "
            f"learns of them; got {data.missing[1]:,} in the validation and {data.missing[2]:,} in "
            "the test images alone; leave those images out, and fill their holes with "
            "ppl_vae.restore --corruption Masked --images FILE"
        )
    return data


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
        raise InputError(
            f"--{role} {class_of(piece).__name__}: {reason(error)}{in_own_code(error)}"
        ) from error


def _construct_network(network: NetworkFactory, inputs: Shape, outputs: Shape) -> Network:
    """A model or guide makes its networks itself; an option that they refuse is not its own."""
    return _construct("network", network, inputs=inputs, outputs=outputs)
