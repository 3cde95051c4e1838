"""The sites of the two programs: each has a distribution, inside of the plate over the data."""

import re
from types import TracebackType
from typing import Any

from pyro import poutine
from pyro.poutine.messenger import Messenger

from guides import Guide
from models import Likelihood, Model, Prior
from ppl_vae.errors import InputError, kind

__all__ = ["OnlyDistributions", "check_plates"]


_MISMATCH = re.compile(r"Shape mismatch inside plate\(.*\) at site (\w+) dim -1, (\d+) vs (\d+)")


class OnlyDistributions(Messenger):
    """Refuses a site without one distribution per datum, where Pyro would fail later or tell less.

    Args:
        program: The model or guide that runs.
    """

    def __init__(self, program: Model | Guide) -> None:
        super().__init__()
        self._program = program

    def _pyro_sample(self, message: Any) -> None:
        given = message["fn"]
        if not (callable(given) and hasattr(given, "log_prob")):
            raise InputError(
                f"expected a distribution at {self._place(message['name'])}; got {kind(given)} "
                f"from {self._maker(message['name'])}; the method that makes it, such as posterior "
                "of a guide or forward of a prior or likelihood, has to return one of "
                "pyro.distributions"
            )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, traceback)
        mismatch = _MISMATCH.match(str(error)) if isinstance(error, ValueError) else None
        if mismatch:
            site, data, got = mismatch.groups()
            raise InputError(
                f"expected one distribution for each of {data} images at {self._place(site)}; got "
                f"{got} at dim -1 from {self._maker(site)}; end it with "
                f".to_event({3 if site == 'x' else 1})"
            ) from error

    def _place(self, site: str) -> str:
        return f"site {site!r} of the {'guide' if isinstance(self._program, Guide) else 'model'}"

    def _maker(self, site: str) -> str:
        """The piece that makes the distribution of a site, as far as one can tell."""
        if isinstance(self._program, Guide):
            return f"guide {type(self._program).__name__}"
        role, base = ("likelihood", Likelihood) if site == "x" else ("prior", Prior)
        piece = getattr(self._program, role, None)
        if isinstance(piece, base):
            return f"{role} {type(piece).__name__}"
        return f"model {type(self._program).__name__}"


def check_plates(pair: str, sites: list[str], traces: dict[str, poutine.Trace]) -> None:
    """Refuses a site that is not inside of a plate at dim -1.

    Args:
        pair: The names of model and guide, for the message.
        sites: The names to look at, where they are.
        traces: By program, of a minibatch.
    """
    for program, trace in traces.items():
        nodes: dict[str, Any] = dict(trace.nodes)
        for site in sites:
            plates = nodes[site]["cond_indep_stack"] if site in nodes else None
            if plates is not None and all(plate.dim != -1 for plate in plates):
                raise InputError(
                    f"{pair}: site {site!r} of the {program} is in no plate over the data; put "
                    f"its pyro.sample into: with pyro.plate('data', len(x), dim=-1)"
                )
