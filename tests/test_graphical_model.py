"""The drawn graph is what the programs do."""

from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from PIL import Image
from pyro.nn import PyroModule
from torch import nn

import guides
import models
from ppl_vae.pictures import plots
from ppl_vae.pictures.graphical_model import _in_order, _listed, graphical_model, relations


def names_of(module):
    return {name for name, _ in module.named_parameters()}


@pytest.mark.parametrize("network", [models.MLP, models.Convolutional])
def test_relations_of_a_vae(tmp_path, network):
    spec = models.Spec((1, 8, 8), "binary", 3)
    model, guide = models.VAE(spec, network=network), guides.DiagonalNormal(spec, network=network)
    before = torch.get_rng_state()
    p, q = graphical_model(model, guide, torch.zeros(5, 1, 8, 8), tmp_path / "graph.png")
    assert torch.equal(torch.get_rng_state(), before)
    assert not list(pyro.get_param_store().keys())
    assert p.parents == {"z": (), "x": ("z",)}
    assert p.distributions == {"z": "Normal", "x": "Bernoulli"}
    assert p.observed == ("x",)
    assert p.plates == {"data": ("z", "x")}
    assert p.sizes == q.sizes == {"data": 5}
    assert p.parameters["z"] == ()
    assert set(p.parameters["x"]) == names_of(model)
    assert q.parents == {"x": (), "z": ("x",)}
    assert q.plates == {"data": ("x", "z")}
    assert set(q.parameters["z"]) == names_of(guide)
    assert all(type(parameter) is nn.Parameter for parameter in model.parameters())
    with Image.open(tmp_path / "graph.png") as picture:
        assert min(picture.size) > 300


def test_relations_of_probabilistic_pca():
    spec = models.Spec((1, 2, 2), "real", 2)
    found = relations(models.ProbabilisticPCA(spec), torch.zeros(3, 1, 2, 2))
    assert found.parents == {"z": (), "x": ("z",)}
    assert found.distributions == {"z": "Normal", "x": "Normal"}
    assert set(found.parameters["x"]) == {"loadings", "mean", "log_scale"}


class TwoLevels(PyroModule):
    """p(y) p(z2) p(z1|z2) p(x|z1, y), with a fixed p(y) and p(z2)."""

    def __init__(self):
        super().__init__()
        self.down = nn.Linear(2, 3)
        self.log_scale = nn.Parameter(torch.zeros(3))
        self.decoder = nn.Linear(4, 6)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Bernoulli(torch.tensor(0.5)))
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(self.down(z2), self.log_scale.exp()).to_event(1))
            logits = self.decoder(torch.cat([z1, y[:, None]], -1))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)


class TwoLevelGuide(PyroModule):
    """q(y|x) q(z1|x) q(z2|z1): z2 sees x through z1 only."""

    def __init__(self):
        super().__init__()
        self.classify = nn.Linear(6, 1)
        self.first = nn.Linear(6, 3)
        self.second = nn.Linear(3, 2)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Bernoulli(logits=self.classify((x > 0.5).float())[:, 0]))
            z1 = pyro.sample("z1", dist.Normal(self.first(x), 1.0).to_event(1))
            pyro.sample("z2", dist.Normal(self.second(z1), 1.0).to_event(1))


def test_relations_of_two_levels_and_a_label(tmp_path):
    x = torch.ones(4, 6)
    p, q = graphical_model(TwoLevels(), TwoLevelGuide(), x, tmp_path / "graph.png")
    assert p.parents == {"y": (), "z2": (), "z1": ("z2",), "x": ("y", "z1")}
    assert p.parameters["y"] == p.parameters["z2"] == ()
    assert set(p.parameters["z1"]) == {"down.weight", "down.bias", "log_scale"}
    assert set(p.parameters["x"]) == {"decoder.weight", "decoder.bias"}
    assert q.parents == {"x": (), "y": ("x",), "z1": ("x",), "z2": ("z1",)}
    assert q.parameters["x"] == ()
    assert set(q.parameters["z2"]) == {"second.weight", "second.bias"}
    assert q.plates == {"data": ("x", "y", "z1", "z2")}


def test_relations_of_plain_functions_with_nested_plates(tmp_path):
    def model(x):
        weight = pyro.sample("weight", dist.Gamma(1.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, weight))
            with pyro.plate("pixels", 4, dim=-2):
                scale = pyro.param("scale", torch.tensor(1.0))
                pyro.sample("x", dist.Normal(z, scale), obs=x.T)

    def guide(x):
        weight = pyro.sample("weight", dist.Gamma(2.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.mean(-1), weight))

    with pyro.get_param_store().scope():
        p, q = graphical_model(model, guide, torch.ones(3, 4), tmp_path / "graph.png")
    assert p.parents == {"weight": (), "z": ("weight",), "x": ("z",)}
    assert p.plates == {"data": ("z", "x"), "pixels": ("x",)}
    assert p.sizes == {"data": 3, "pixels": 4}
    assert p.parameters == {"weight": (), "z": (), "x": ("scale",)}
    assert q.parents == {"x": (), "weight": (), "z": ("x", "weight")}
    assert q.plates == {"data": ("x", "z")}
    assert (tmp_path / "graph.png").exists()


class Flow(PyroModule):
    """q(z|x) through a transform whose density is known at its own draws only."""

    def __init__(self, transform):
        super().__init__()
        self.encoder = nn.Linear(6, 3)
        self.transform = transform

    def forward(self, x):
        with pyro.plate("data", len(x)):
            base = dist.Normal(self.encoder(x), 1.0).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, [self.transform]))


@pytest.mark.parametrize("name", ["planar", "affine_autoregressive", "neural_autoregressive"])
def test_relations_of_a_flow_without_an_inverse(name):
    guide = Flow(getattr(dist.transforms, name)(3))
    found = relations(guide, torch.ones(4, 6), given="x")
    assert found.parents == {"x": (), "z": ("x",)}
    assert found.distributions == {"x": "", "z": "TransformedDistribution"}
    assert set(found.parameters["z"]) == names_of(guide)


def test_a_guide_that_ignores_x_gets_no_arrow_from_it():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))

    assert relations(guide, torch.ones(3, 4), given="x").parents == {"x": (), "z": ()}


def test_relations_where_a_sampler_takes_no_marked_tensors():
    """Laplace's sampler makes its noise from its location, which fails where that is marked."""

    class Program(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Laplace(torch.zeros(3), self.scale.exp()).to_event(1))
                return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    found = relations(Program(), torch.zeros(4, 3))
    assert found.parents == {"z": (), "x": ("z",)}
    assert found.parameters == {"z": ("scale",), "x": ()}
    assert found.distributions == {"z": "Laplace", "x": "Normal"}


@pytest.mark.parametrize(
    ("model", "guide", "said"),
    [
        (models.Mixture, guides.DiagonalNormal, "z\\,|\\,x"),
        (models.SemiSupervised, guides.SemiSupervisedNormal, "y, z\\,|\\,\\mathrm{label}, x"),
        (models.LabelledMixture, guides.ClassifyingNormal, "z\\,|\\,x"),
    ],
)
def test_the_title_of_a_guide_names_the_sites_that_it_draws(
    tmp_path, monkeypatch, model, guide, said
):
    spec = models.Spec((1, 8, 8), "binary", 3, 10)
    titles = []

    def read(figure, path):
        titles.extend(text.get_text() for text in figure.axes[0].texts)

    monkeypatch.setattr("ppl_vae.pictures.graphical_model.save", read)
    labels = [torch.zeros(5, dtype=torch.long)] if model(spec).labelled else []
    x = torch.zeros(5, 1, 8, 8)
    p = model(spec)
    q = guide(spec, p) if guide is guides.ClassifyingNormal else guide(spec)
    generative, _ = graphical_model(p, q, x, tmp_path / "graph.png", *labels)
    assert not generative.parameters.get("label")
    assert f"Guide  $q_\\phi({said})$" in titles


@pytest.mark.parametrize("name", ["a$b", "$x$", "$", "z$1"])
def test_names_of_the_users_are_text_and_no_mathematics(tmp_path, name):
    """In the graph as sites and plates, in curves and charts as notes and names."""

    def model(x):
        with pyro.plate(name, len(x), dim=-1):
            z = pyro.sample(f"{name}_z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1)[:, None], 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate(name, len(x), dim=-1):
            pyro.sample(f"{name}_z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))

    graphical_model(model, guide, torch.zeros(3, 1), tmp_path / "graph.png")
    plots.learning_curves([], tmp_path / "curves.png", f"{name} of {name}")
    rows = [{"name": name, "score": 1.0, "score_standard_error": 0.1}]
    plots.score_chart(rows, {"score": "a score"}, tmp_path / "chart.png", f"{name} in {name}")
    assert len(list(tmp_path.iterdir())) == 3


def test_many_sites_are_listed_by_the_first_and_the_last_and_fit_into_the_picture(tmp_path):
    """No arrow comes near the edge, and z10 comes after z2."""
    spec = models.Spec((1, 8, 8), "binary", 2)
    network = partial(models.Cells, channels=4, inner=2)
    model = models.TopDown(spec, network=network, groups=[[5, 1], [5, 2], [2, 4]], width=4)
    guide = guides.Bidirectional(spec, model, network=network)
    graphical_model(model, guide, torch.zeros(2, 1, 8, 8), tmp_path / "graph.png")
    with Image.open(tmp_path / "graph.png") as picture:
        grey = np.asarray(picture.convert("L"))
    assert (grey[:, [0, 1, 2, -3, -2, -1]] == 255).all()
    assert _listed(["x", *sorted(model.latents, key=_in_order)]) == "x, z_{1}, \\ldots, z_{12}"
    assert _listed(["z1", "z2", "x"]) == "z_{1}, z_{2}, x"
