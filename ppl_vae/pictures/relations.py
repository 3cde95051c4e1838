"""Which site of a Pyro program depends on what, found by running it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer.inspect import get_model_relations
from pyro.ops.provenance import get_provenance, track_provenance
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.func import functional_call

from ppl_vae.machine.randomness import isolated

__all__ = ["Relations", "relations"]

_PARAMETER = "parameter "  # no Python identifier has a space, so no site of a program is named so


@dataclass(frozen=True)
class Relations:
    """The sites of a program and their dependencies, found by running it.

    Attributes:
        parents: For each site, the sites that its density takes directly, in the order of the
            program. The keys are all sites, in that order too.
        distributions: For each site, its distribution's name; "" for an input.
        observed: Sites whose value is given, inputs among them.
        plates: For each plate, the sites in it.
        sizes: For each plate, how often it repeats.
        parameters: For each site, the names of the parameters that its density takes directly.
    """

    parents: Mapping[str, tuple[str, ...]]
    distributions: Mapping[str, str]
    observed: tuple[str, ...]
    plates: Mapping[str, tuple[str, ...]]
    sizes: Mapping[str, int]
    parameters: Mapping[str, tuple[str, ...]]


class _Flow:
    """A transformed distribution that keeps the provenance of its draw.

    Its density would need the inverse of the transform, which many do not have.
    """

    def __init__(self, fn: Any) -> None:
        self.fn = fn
        self.marks: frozenset[str] = frozenset()

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        value = self.fn(*args, **kwargs)
        self.marks = get_provenance(value)
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        return track_provenance(torch.zeros(()), self.marks)


class _Sites(Messenger):
    """Notes the sizes of plates and the flows while a program runs on values drawn before.

    Some samplers (Laplace's, say) fail on tensors that carry marks; densities do not.
    """

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values
        self.sizes: dict[str, int] = {}
        self.flows: dict[str, str] = {}

    def _pyro_sample(self, msg: Any) -> None:
        base = msg["fn"]
        while isinstance(
            base, (dist.Independent, dist.ExpandedDistribution, dist.MaskedDistribution)
        ):
            base = base.base_dist
        if isinstance(base, dist.TransformedDistribution) and not msg["is_observed"]:
            self.flows[msg["name"]] = type(base).__name__
            msg["fn"] = _Flow(msg["fn"])
        elif not msg["is_observed"] and msg["name"] in self.values:
            msg["value"] = self.values[msg["name"]]
            msg["done"] = True

    def _pyro_post_sample(self, msg: Any) -> None:
        for frame in msg["cond_indep_stack"]:
            self.sizes[frame.name] = frame.size


def _given(name: str, value: Tensor) -> Tensor:
    """Marks a value as a site, so that whatever is computed from it can be traced back to it."""
    anything = dist.ImproperUniform(constraints.real, (), value.shape)
    return pyro.sample(name, anything, obs=value)


def relations(
    program: Callable[..., Any],
    x: Tensor,
    *labels: Tensor,
    given: str | None = None,
    given_labels: str | None = None,
) -> Relations:
    """Runs a program once on x and reads off which site depends on what.

    Values, parameters and, where asked, the input carry marks of where they came from through
    all tensor operations (Wingate et al., 2011), and a site depends on whatever marks its
    log-density ends up with; for a draw from a transformed distribution, the draw. Neither
    parameters nor random states are changed.

    Args:
        program: A Pyro program of images, and of labels where there are any; where it is a
            module, in evaluation mode.
        x: Images (B, C, H, W).
        *labels: Their labels (B,), for a program that takes them.
        given: The name under which x itself appears among the sites, for a guide, which
            conditions on x. It is put in the plates that repeat B times.
        given_labels: The same for the labels, where the program conditions on them.

    Returns:
        The relations, with the sites in the order of the program.
    """
    with isolated(x.device), torch.no_grad():
        drawn: Any = poutine.trace(program).get_trace(x, *labels)
    notes = _Sites({name: drawn.nodes[name]["value"] for name in drawn.stochastic_nodes})
    module = program if isinstance(program, nn.Module) else None

    inputs = [name for name in (given, given_labels) if name is not None]

    def marked(x: Tensor, *labels: Tensor) -> None:
        marks = {}
        if module is not None:
            named = module.named_parameters()
            marks = {name: _given(_PARAMETER + name, value) for name, value in named}
        values = [x if given is None else _given(given, x)]
        values += [y if given_labels is None else _given(given_labels, y) for y in labels]
        with notes:
            if module is None:
                program(*values)
            else:
                functional_call(module, marks, tuple(values))

    found = get_model_relations(marked, (x, *labels))
    sites = [name for name in found["sample_sample"] if not name.startswith(_PARAMETER)]
    parents, parameters = {}, {}
    for site in sites:
        upstream = found["sample_sample"][site]
        parents[site] = tuple(name for name in upstream if not name.startswith(_PARAMETER))
        marks = [name.removeprefix(_PARAMETER) for name in upstream if name.startswith(_PARAMETER)]
        named = [name.replace("$$$", ".") for name in found["sample_param"][site]]
        parameters[site] = tuple(dict.fromkeys([*marks, *named]))
    members = {name: tuple(inside) for name, inside in found["plate_sample"].items()}
    sizes = {name: notes.sizes[name.removesuffix("__CLONE")] for name in members}
    for name, size in sizes.items():
        if size == len(x):
            members[name] = (*inputs, *members[name])
    names = {**found["sample_dist"], **notes.flows, **dict.fromkeys(inputs, "")}
    return Relations(
        parents=parents,
        distributions={site: names[site] for site in sites},
        observed=tuple(site for site in found["observed"] if site in parents),
        plates=members,
        sizes=sizes,
        parameters=parameters,
    )
