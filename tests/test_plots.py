"""Pictures keep the pixels, and the drawn graph is what the programs do."""

import subprocess
import sys

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
from ppl_vae.pictures.graphical_model import graphical_model, relations


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def contains(picture, part):
    """Whether a picture contains a part, exactly."""
    height, width = part.shape[:2]
    views = np.lib.stride_tricks.sliding_window_view(picture, (height, width, 3))[:, :, 0]
    corners = np.argwhere((views[:, :, 0, 0] == part[0, 0]).all(-1))
    return any((views[tuple(corner)] == part).all() for corner in corners)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (28, 20), (64, 64)])
def test_image_grid_keeps_every_value_in_squares_of_whole_pixels(tmp_path, channels, height, width):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, channels, height, width)) / 255
    plots.image_grid(images, tmp_path / "grid.png", columns=3, title="title")
    picture = pixels(tmp_path / "grid.png")
    scale = round(112 / max(height, width))
    for image in images:
        small = np.broadcast_to(255 * image.transpose(1, 2, 0), (height, width, 3)).round()
        large = small.astype(np.uint8).repeat(scale, 0).repeat(scale, 1)
        assert contains(picture, large)
    assert picture.shape[1] < 3.6 * scale * width + 100


def test_image_grid_puts_rows_and_columns_where_they_are(tmp_path):
    values = np.arange(6).reshape(2, 3) / 10
    images = np.broadcast_to(values[:, :, None, None, None], (2, 3, 1, 8, 8))
    plots.image_grid(images, tmp_path / "grid.png")
    picture = pixels(tmp_path / "grid.png")[..., 0]
    height, width = picture.shape
    ys, xs = [height // 3, 2 * height // 3], [width // 5, width // 2, 4 * width // 5]
    middles = picture[np.ix_(ys, xs)]
    np.testing.assert_array_equal(middles, np.rint(255 * values))


def test_image_grid_leaves_missing_images_white_and_is_reproducible(tmp_path):
    images = np.zeros((3, 1, 8, 8))
    labels = {"row_labels": ["$z_0$  effect 0.12", "$z_1$"], "column_labels": ["a", "b"]}
    for name in ("first.png", "second.png"):
        plots.image_grid(images, tmp_path / name, columns=2, **labels)
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()
    corner = pixels(tmp_path / "first.png")[-100:-20, -100:-20]
    assert (corner == 255).all()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("shape", [(8, 8), (0, 1, 8, 8), (4, 2, 8, 8), (0, 3, 1, 8, 8)])
def test_image_grid_refuses_other_shapes(tmp_path, shape):
    with pytest.raises(ValueError, match="expected images"):
        plots.image_grid(np.zeros(shape), tmp_path / "grid.png")
    assert not any(tmp_path.iterdir())


def test_reconstructions_stand_below_their_originals(tmp_path):
    originals = np.full((20, 1, 8, 8), 0.2)
    plots.reconstructions(originals, originals + 0.4, tmp_path / "pairs.png")
    column = pixels(tmp_path / "pairs.png")[:, -60, 0]
    shades = [shade for shade in column[np.flatnonzero(np.diff(column, prepend=0))] if shade < 255]
    assert shades[:2] == [51, 153]
    with pytest.raises(ValueError, match="shape"):
        plots.reconstructions(originals, originals[:3], tmp_path / "pairs.png")


def test_animation_runs_there_and_back(tmp_path):
    frames = np.arange(5).reshape(5, 1, 1, 1) / 5 * np.ones((5, 1, 8, 8))
    plots.animation(frames, tmp_path / "moves.gif")
    with Image.open(tmp_path / "moves.gif") as gif:
        assert gif.info["loop"] == 0
        shades = []
        for frame in range(gif.n_frames):
            gif.seek(frame)
            shades.append(int(np.asarray(gif.convert("L"))[60, 60]))
        assert min(gif.size) > 100
    assert shades == [round(255 * step / 5) for step in (0, 1, 2, 3, 4, 3, 2, 1)]


def test_learning_curves_survive_missing_values_and_single_epochs(tmp_path):
    names = ["loss", "validation_elbo", "validation_rate", "validation_distortion"]
    row = {"epoch": "1", "steps": 10, "learning_rate": 1e-3}
    row |= {f"{name}_nats_per_datum": "3.5" for name in names}
    for rows in ([], [row], [row, {**row, "epoch": 2, "validation_elbo_nats_per_datum": ""}]):
        plots.learning_curves(rows, tmp_path / "curves.png", "digits")
        assert pixels(tmp_path / "curves.png").shape == (630, 1350, 3)


@pytest.mark.parametrize(("epochs", "ticks"), [([1], [1]), ([1, 2], [1, 2])])
def test_learning_curves_of_few_epochs_have_whole_ticks(tmp_path, monkeypatch, epochs, ticks):
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.append(figure))
    rows = [{"epoch": epoch, "loss_nats_per_datum": -epoch} for epoch in epochs]
    plots.learning_curves(rows, tmp_path / "curves.png")
    for axes in figures[0].axes:
        low, high = axes.get_xlim()
        assert [tick for tick in axes.get_xticks() if low <= tick <= high] == ticks
        if epochs == [1]:
            assert (low, high) == (0.5, 1.5)


@pytest.mark.parametrize("point", [False, True])
def test_learning_curves_of_a_point_show_no_bound(tmp_path, monkeypatch, point):
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.append(figure))
    plots.learning_curves([{"epoch": 1}], tmp_path / "curves.png", point=point)
    titles = " ".join(axes.get_title(loc="left") for axes in figures[0].axes)
    assert ("ELBO" in titles, "KL" in titles) == (not point, not point)


def test_robust_limits_show_the_end_and_not_the_beginning():
    limits = []

    class Axes:
        def set_ylim(self, low, high):
            limits.append((low, high))

    values = np.concatenate([[-1e4, -5e3], np.linspace(-100, -90, 38)])
    plots._robust_limits(Axes(), [values])
    ((low, high),) = limits
    assert -102 < low < -98
    assert -90 < high < -88


@pytest.mark.parametrize(
    ("domain", "values", "expected"),
    [
        ("bytes", [0, 51, 255], [0, 0.2, 1]),
        ("binary", [0, 1, 0.3], [0, 1, 0.3]),
        ("unit", [0.5, 0.0, 1.0], [0.5, 0, 1]),
        ("real", [0.1, 0.5, 1.0], [0.1, 0.5, 1.0]),
        ("real", [-1, 0, 3], [0, 0.25, 1]),
        ("real", [-2, -2, -2], [0, 0, 0]),
    ],
)
def test_to_display(domain, values, expected):
    np.testing.assert_allclose(plots.to_display(values, domain), expected)


def test_to_display_takes_its_scale_from_other_images():
    np.testing.assert_allclose(plots.to_display([-3, 1, 2], "real", like=[-1, 3]), [0, 0.5, 0.75])
    np.testing.assert_allclose(plots.to_display([-3, 0.5, 2], "real", like=[0, 1]), [0, 0.5, 1])


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
    assert min(pixels(tmp_path / "graph.png").shape[:2]) > 300


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


def test_importing_loads_no_drawing_library():
    code = (
        "import sys, ppl_vae.pictures.plots, ppl_vae.pictures.graphical_model, ppl_vae.generate; "
        "print(*(name for name in ('matplotlib', 'PIL') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


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
