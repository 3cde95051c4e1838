"""Pairs as in the tutorials of Pyro: a VAE, the semi-supervised M2, a conditional VAE."""

import pyro
import pyro.distributions as dist
import torch
from oracles import refused
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, config_enumerate
from torch import Tensor, nn

from ppl_vae.densities.joint import Joint
from ppl_vae.densities.weights import log_weights
from ppl_vae.inference.ais import ais, bidirectional
from ppl_vae.inference.calibration import simulation_based_calibration
from ppl_vae.inference.datatree import to_datatree
from ppl_vae.inference.gaps import gap_decomposition
from ppl_vae.inference.nuts import nuts_posterior
from ppl_vae.inference.pareto import pareto_k
from ppl_vae.inference.simulation import simulate

CLASSES = 3
GRID = torch.linspace(-8, 8, 161)


class Broadcast(nn.Module):
    """A layer of several inputs, whose batch dimensions are broadcast."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, outputs)

    def forward(self, *parts: Tensor) -> Tensor:
        shape = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
        return self.layer(torch.cat([part.expand(*shape, -1) for part in parts], -1))


class Tutorial(nn.Module):
    """A decoder of one latent, and an encoder to its mean and the logarithm of its deviation."""

    def __init__(self, pixels: int, given: int = 0) -> None:
        super().__init__()
        self.decoder = Broadcast(1 + given, pixels)
        self.encoder = Broadcast(pixels + given, 2)
        self.classifier = nn.Linear(pixels, CLASSES)

    def normal(self, *inputs: Tensor) -> dist.TorchDistribution:
        loc, log_scale = self.encoder(*inputs).chunk(2, -1)
        return dist.Normal(loc, log_scale.exp()).to_event(1)


class VAE(Tutorial):
    """Images (B, 2, 3), which the model looks at as rows of pixels."""

    def model(self, x: Tensor) -> Tensor:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            zeros = x.new_zeros(x.shape[0], 1)
            z = pyro.sample("latent", dist.Normal(zeros, torch.ones_like(zeros)).to_event(1))
            pixels = self.decoder(z).sigmoid()
            pyro.sample(
                "obs", dist.Bernoulli(pixels, validate_args=False).to_event(1),
                obs=x.reshape(-1, 6),
            )  # fmt: skip
            return pixels

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("latent", self.normal(x.reshape(-1, 6)))


class M2(Tutorial):
    """p(y) p(z) p(x|y, z) and q(y|x) q(z|x, y), with the class known or not."""

    def model(self, xs: Tensor, ys: Tensor | None = None) -> Tensor:
        pyro.module("ss_vae", self)
        with pyro.plate("data"):
            zeros = xs.new_zeros(len(xs), 1)
            zs = pyro.sample("z", dist.Normal(zeros, torch.ones_like(zeros)).to_event(1))
            prior = xs.new_ones(len(xs), CLASSES) / CLASSES
            ys = pyro.sample("y", dist.OneHotCategorical(prior), obs=ys)
            loc = self.decoder(zs, ys).sigmoid()
            pyro.sample("x", dist.Bernoulli(loc, validate_args=False).to_event(1), obs=xs)
            return loc

    def guide(self, xs: Tensor, ys: Tensor | None = None) -> None:
        with pyro.plate("data"):
            if ys is None:
                alpha = self.classifier(xs).softmax(-1)
                ys = pyro.sample("y", dist.OneHotCategorical(alpha))
            pyro.sample("z", self.normal(xs, ys))


class CVAE(Tutorial):
    """p(z|x) p(y|x, z): the rest y of an image from a part x of it."""

    def __init__(self) -> None:
        super().__init__(4, given=2)
        self.prior = nn.Linear(2, 1)

    def model(self, xs: Tensor, ys: Tensor) -> Tensor:
        pyro.module("generation_net", self)
        with pyro.plate("data"):
            loc = self.prior(xs)
            zs = pyro.sample("z", dist.Normal(loc, torch.ones_like(loc)).to_event(1))
            pixels = self.decoder(zs, xs).sigmoid()
            pyro.sample("y", dist.Bernoulli(pixels).to_event(1), obs=ys)
            return pixels

    def guide(self, xs: Tensor, ys: Tensor) -> None:
        with pyro.plate("data"):
            pyro.sample("z", self.normal(ys, xs))


def trained(model, guide, batch, loss) -> None:
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), loss)
    for _ in range(60):
        svi.step(*batch)


def evidence(joint: Joint, site: str) -> Tensor:
    """log p(x) by a sum over a grid of the latent, (B,)."""
    grid = GRID[:, None, None].expand(-1, len(joint), 1)
    terms = torch.stack(joint.log_terms({site: grid})).sum(0)
    return terms.logsumexp(0) + (GRID[1] - GRID[0]).log()


def check(model, guide, batch, site: str) -> None:
    """Every function of the page on inference, against log p(x) by the grid."""
    joint = Joint.of(model, guide, batch)
    with torch.no_grad():
        exact = evidence(joint, site)
        grid = GRID[:, None, None].expand(-1, len(joint), 1)
        mass = joint.log_guide({site: grid}).exp().sum(0) * (GRID[1] - GRID[0])
        torch.testing.assert_close(mass, torch.ones_like(mass), rtol=1e-3, atol=1e-3)
        weights = log_weights(model, guide, batch, 4000)
    relative = (weights - exact).exp()
    assert ((relative.mean(0) - 1).abs() < 4.5 * relative.std(0) / 4000**0.5 + 1e-4).all()
    assert pareto_k(weights).k_hat.shape == exact.shape
    found = ais(joint, temperatures=20, leapfrog_steps=2, start="guide")
    assert ((found.lower - 1e-3 < exact) & (exact < found.upper + 1e-3)).double().mean() > 0.8
    drawn = nuts_posterior(joint[:2], draws=60, warmup=60).latents[site]
    assert drawn.shape == (4, 60, 2, 1)
    tree = to_datatree(joint, draws=4, chains=2)
    assert tree["posterior"][site].shape == (2, 4, len(joint), 1)
    both = bidirectional(model, guide, 5, temperatures=10, leapfrog_steps=2, like=batch)
    truth = evidence(Joint.of(model, guide, both.batch), site).detach()
    error = both.gap.std() / 5**0.5 + 0.1
    assert abs((both.below.log_likelihood - truth).mean()) < 4 * error
    found = simulation_based_calibration(model, guide, data_points=100, like=batch)
    assert found.ranks[site].shape == (100, 1)


def test_the_vae() -> None:
    pair = VAE(6)
    x = (torch.rand(5, 2, 3) > 0.5).float()
    trained(pair.model, pair.guide, (x,), Trace_ELBO())
    check(pair.model, pair.guide, x, "latent")
    gaps = gap_decomposition(pair.model, pair.guide, x, particles=1000, steps=100)
    assert (gaps.approximation_gap > -4 * gaps.approximation_gap_standard_error - 1e-3).all()
    (drawn,), _ = simulate(pair.model, 7, like=x)
    assert drawn.shape == (7, 2, 3)


def test_the_semi_supervised_pair_sums_the_class_out_of_both_programs() -> None:
    """log p(x) and log q(z|x) by a sum over the classes that is written out."""
    pair = M2(6, given=CLASSES)
    x = (torch.rand(5, 6) > 0.5).float()
    guide = config_enumerate(pair.guide, expand=True)
    trained(pair.model, guide, (x,), TraceEnum_ELBO(max_plate_nesting=1))
    joint = Joint.of(pair.model, guide, x)
    assert joint.summed == ("y",)
    z = torch.randn(7, 5, 1)
    with torch.no_grad():
        prior, likelihood = joint.log_terms({"z": z})
        terms, densities = [], []
        for label in torch.eye(CLASSES):
            y = label.expand(5, -1)
            loc = pair.decoder(z, y).sigmoid()
            terms.append(dist.Bernoulli(loc).log_prob(x).sum(-1) - torch.tensor(CLASSES).log())
            share = (pair.classifier(x).log_softmax(-1) * y).sum(-1)
            densities.append(share + pair.normal(x, y).log_prob(z))
        torch.testing.assert_close(likelihood, torch.stack(terms).logsumexp(0))
        torch.testing.assert_close(prior, dist.Normal(0.0, 1.0).log_prob(z).sum(-1))
        expected = torch.stack(densities).logsumexp(0)
        torch.testing.assert_close(joint.log_guide({"z": z}), expected)
        latents, log_q = joint.draw(3)
        torch.testing.assert_close(log_q, joint.log_guide(latents))
    check(pair.model, guide, x, "z")


def test_the_semi_supervised_pair_with_known_classes() -> None:
    pair = M2(6, given=CLASSES)
    x, y = (torch.rand(5, 6) > 0.5).float(), torch.eye(CLASSES)[[0, 2, 1, 1, 0]]
    trained(pair.model, pair.guide, (x, y), Trace_ELBO())
    tree = to_datatree(pair.model, pair.guide, (x, y), draws=4, chains=2)
    assert set(tree["log_likelihood"].data_vars) == {"x", "y"}
    check(pair.model, pair.guide, (x, y), "z")


def test_the_conditional_vae() -> None:
    pair = CVAE()
    x, y = torch.randn(5, 2), (torch.rand(5, 4) > 0.5).float()
    trained(pair.model, pair.guide, (x, y), Trace_ELBO())
    check(pair.model, pair.guide, (x, y), "z")
    (given, drawn), _ = simulate(pair.model, 7, like=(x, y))
    assert torch.equal(given, x[torch.arange(7) % 5])
    assert drawn.shape == (7, 4)


def test_data_that_the_model_does_not_observe_as_they_are_cannot_be_drawn() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("log_x", dist.Normal(z, 1.0), obs=x.log())

    with refused("'log_x' observes is none of them"):
        simulate(model, 3, like=torch.rand(4))
