"""Other people's Pyro code in the same process: it does what it does without this project."""

import os
import subprocess
import sys
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from oracles import two_levels_model
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam
from pyro.optim import Adam
from torch.distributions import constraints

from guides import DiagonalNormal
from models import VAE, Linear, Spec
from ppl_vae.inference.gaps import gap_decomposition

SPEC = Spec((1, 3, 3), "binary", 2)

# Programs as Pyro's tutorials write them; prints the losses of a short training of each.
THEIRS = """
import sys
import pyro, pyro.distributions as dist, torch
from pyro.infer import SVI, Trace_ELBO, autoguide
from pyro.nn import PyroModule, PyroSample
from pyro.optim import Adam

def globals_():
    return (
        pyro.settings.get(), torch.get_default_dtype(), torch.distributions.Distribution.__init__,
        torch.distributions.Distribution._validate_args, torch.is_grad_enabled(),
        torch.get_num_threads(), torch.get_rng_state().tolist(), sys.path[:], sys.excepthook,
    )

def ours():
    from ppl_vae import guides, models
    from ppl_vae.objectives import ELBO
    from ppl_vae.training.step import SVIStep
    spec = models.Spec((1, 3, 3), "binary", 2)
    step = SVIStep(models.VAE(spec), guides.DiagonalNormal(spec), ELBO())
    for _ in range(3):
        step((torch.ones(5, 1, 3, 3),), 1e-3)

pyro.set_rng_seed(0)
before = globals_()
if sys.argv[1] != "alone":
    import ppl_vae
    assert globals_() == before
x = torch.linspace(-1, 1, 20).reshape(10, 2)
y = x @ torch.tensor([1.0, -2.0]) + 0.5

class Network(PyroModule):
    def __init__(self):
        super().__init__()
        self.first = PyroModule[torch.nn.Linear](2, 3)
        self.first.weight = PyroSample(dist.Normal(0.0, 1.0).expand([3, 2]).to_event(2))
        self.second = PyroModule[torch.nn.Linear](3, 1)

    def forward(self, x, y):
        mean = self.second(self.first(x).tanh()).squeeze(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(mean, 0.5), obs=y)

def regression(x, y):
    scale = pyro.param("scale", torch.tensor(0.5), constraint=dist.constraints.positive)
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ w, scale), obs=y)

def by_hand(x, y):
    loc = pyro.param("loc", torch.zeros(2))
    pyro.sample("w", dist.Normal(loc, 0.1).to_event(1))

pairs = [(regression, by_hand)]
for name in ("Normal", "DiagonalNormal", "MultivariateNormal", "LowRankMultivariateNormal",
             "IAFNormal", "Delta"):
    for model in (regression, Network()):
        pairs.append((model, getattr(autoguide, "Auto" + name)(model)))
for model, guide in pairs:
    pyro.clear_param_store()
    svi = SVI(model, guide, Adam({"lr": 0.01}), Trace_ELBO())
    for step in range(4):
        if sys.argv[1] == "beside" and step == 2:
            with torch.random.fork_rng():
                ours()
        pyro.set_rng_seed(step)
        print(svi.step(x, y))
"""


def run(*arguments: str) -> str:
    """Standard output of a fresh process."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", *arguments], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_other_pairs_train_to_the_same_losses_before_the_import_after_it_and_beside_a_fit() -> None:
    alone, after, beside = (run(THEIRS, when) for when in ("alone", "after", "beside"))
    assert len(alone.split()) == 13 * 4
    assert after == alone
    assert beside == alone


def test_guides_trained_before_the_import_go_on_after_it_and_have_weights() -> None:
    found = run("""
import pyro, pyro.distributions as dist, torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam
pyro.set_rng_seed(0)
x = torch.linspace(-1, 1, 10)

def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)

class Guide(PyroModule):
    def __init__(self):
        super().__init__()
        self.slope = PyroParam(torch.tensor(0.0))
        self.scale = PyroParam(torch.tensor(1.0), dist.constraints.positive)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.slope * x, self.scale))

guide, other = Guide(), AutoNormal(model)
optimizer = pyro.optim.Adam({"lr": 0.05})
trained, automatic = (SVI(model, g, optimizer, Trace_ELBO()) for g in (guide, other))
for step in range(300):
    trained.step(x), automatic.step(x)
    if step == 150:
        from ppl_vae.densities.weights import log_weights
exact = dist.Normal(0.0, 2**0.5).log_prob(x)
for each in (guide, other):
    relative = (log_weights(model, each, x, 2000) - exact).exp()
    error = relative.std(0) / 2000**0.5
    print(error.max().item(), ((relative.mean(0) - 1).abs() / error).max().item())
""")
    # The posterior is N(x/2, 1/2), so that weights vary little once a guide is near it.
    for line in found.splitlines():
        error, distance = map(float, line.split())
        assert error < 0.02
        assert distance < 4.5
    assert len(found.splitlines()) == 2


class Chain(PyroModule):
    """q(z2|x) q(z1|z2) for `two_levels_model`, with parameters that Pyro constrains."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = PyroParam(torch.tensor(-1.0, dtype=torch.float64))
        self.scale = PyroParam(torch.tensor(1.0, dtype=torch.float64), constraints.positive)

    def forward(self, x: torch.Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(self.slope * x.mean(-1, True), 1.0).to_event(1))
            pyro.sample("z1", dist.Normal(self.slope * z2, self.scale).to_event(1))


def test_what_the_store_holds_of_a_guide_does_not_replace_its_copies() -> None:
    x = torch.tensor([[0.3, 1.0], [-2.0, 0.5]], dtype=torch.float64)
    gaps = []
    for trained in (False, True):
        pyro.clear_param_store()
        guide = Chain()
        if trained:
            SVI(two_levels_model, guide, Adam({"lr": 0.0}), Trace_ELBO()).step(x)
        pyro.set_rng_seed(0)
        gaps.append(gap_decomposition(two_levels_model, guide, x, particles=50, steps=30))
        for name, value in pyro.get_param_store().items():
            assert torch.equal(value, getattr(guide, name))
    assert (gaps[0].amortization_gap > 0.05).any()
    assert torch.equal(gaps[0].amortization_gap, gaps[1].amortization_gap)


def test_a_program_inside_of_a_users_module_runs_alone_and_in_it() -> None:
    class Both(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = VAE(SPEC, network=Linear)
            self.shift = PyroParam(torch.tensor(0.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.model(x) + self.shift

    both, x = Both(), torch.ones(4, 1, 3, 3)
    both.model(x)
    svi = SVI(both.model, DiagonalNormal(SPEC), Adam({"lr": 1e-3}), Trace_ELBO())
    assert svi.step(x) > 0
    assert torch.equal(both(x), x)
    assert list(pyro.get_param_store().keys()) == ["shift"]


def test_an_autoguide_for_a_model_of_ours() -> None:
    model, x = VAE(SPEC, network=Linear), torch.ones(4, 1, 3, 3)
    before = [parameter.clone() for parameter in model.parameters()]
    svi = SVI(model, AutoNormal(model), Adam({"lr": 1e-2}), Trace_ELBO())
    assert svi.step(x) > 0
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(name.startswith("AutoNormal") for name in pyro.get_param_store())
