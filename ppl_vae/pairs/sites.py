"""The sites of the two programs: each has a distribution, inside of the plate over the data."""

from typing import Any

from pyro import poutine
from pyro.poutine.messenger import Messenger

from ppl_vae.errors import InputError, kind

__all__ = ["OnlyDistributions", "check_plates"]


class OnlyDistributions(Messenger):
    """Refuses `pyro.sample` of something else than a distribution, where Pyro would fail later.

    Args:
        program: The name of the program that runs, for the message.
    """

    def __init__(self, program: str) -> None:
        super().__init__()
        self._program = program

    def _pyro_sample(self, message: Any) -> None:
        given = message["fn"]
        if not (callable(given) and hasattr(given, "log_prob")):
            raise InputError(
                f"expected a distribution at site {message['name']!r} of the {self._program}; got "
                f"{kind(given)}; the method that makes it, such as posterior of a guide "
                "or forward of a prior or likelihood, has to return one of pyro.distributions"
            )


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
