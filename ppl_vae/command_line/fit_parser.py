"""The parser of `fit`: its parameters in groups, each piece by the name of its class."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from guides import DiagonalNormal
from models import MLP, VAE
from ppl_vae.command_line.parser import Parser
from ppl_vae.command_line.pieces import add_pieces
from ppl_vae.data import Digits
from ppl_vae.objectives import ELBO

__all__ = ["fit_parser"]

_DEFAULTS = {
    "data": Digits,
    "model": VAE,
    "network": MLP,
    "guide": DiagonalNormal,
    "objective": ELBO,
}

_GROUPS = {  # of the options in --help; training has all others too
    "data": ["data", "labels", "label_repeats"],
    "model": ["model", "prior", "likelihood", "network", "latent_dim"],
    "guide": ["guide"],
    "training": ["objective"],
    "run": ["run", "overwrite", "seed", "device", "engine", "precision", "checkpoint_seconds"],
}
_PYTHON_ONLY = {"on_epoch", "stop_when", "validation", "test"}


def fit_parser(fit: Callable[..., Any]) -> Parser:
    """The parser whose options are the parameters of `fit`, and `--resume`."""
    parser = Parser.of_verb(
        "fit",
        "Train a model/guide pair by stochastic variational inference.",
        usage="python -m ppl_vae.fit [--PIECE CLASS] [--PIECE.OPTION VALUE] [--OPTION VALUE] ...",
        epilog="A PIECE is one of those options that take a CLASS. --guide.help lists the guides "
        "with a line each, --guide.help IAF the options of one, such as --guide.flows 4; and so "
        "for the other pieces.",
    )
    apart = {name for names in _GROUPS.values() for name in names} | _PYTHON_ONLY | {"start_from"}
    others = [name for name in inspect.signature(fit).parameters if name not in apart]
    add_pieces(parser, fit, _GROUPS | {"training": [*_GROUPS["training"], *others]}, _DEFAULTS)
    parser.add_argument(
        "--start_from",
        type=str | None,
        help="The run with whose parameters the pair starts; their shapes have to agree, except "
        "that the clusters of a Mixture or LabelledMixture are fitted to the z of a VAE.",
    )
    parser.add_argument(
        "--resume",
        type=Path | None,
        help="Go on with this run; only --epochs, for more than were planned, --device, "
        "--allow_code and, where its files have moved, options of its data set (--data.path DIR) "
        "may stand beside it.",
    )
    return parser
