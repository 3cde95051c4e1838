"""The deterministic autoencoder as a pair, against the network and the loss that it stands for."""

import json
from functools import partial
from math import log, pi

import pytest
import torch
from torch import nn

import ppl_vae
from guides import IAF, Delta, DiagonalNormal
from models import MLP, VAE, Autoencoder, Gaussian, MaxPooling, Spec
from ppl_vae.data import Digits
from ppl_vae.densities.weights import log_weights
from ppl_vae.errors import InputError
from ppl_vae.evaluate import evaluate
from ppl_vae.fit import fit
from ppl_vae.generate import generate
from ppl_vae.objectives import ELBO, IWAE
from ppl_vae.pairs.checks import check_objective, check_pair
from ppl_vae.training.adam import Rule
from ppl_vae.training.step import SVIStep

SPEC = Spec((1, 28, 28), "real", 32)


class Reference(nn.Module):
    """The convolutional autoencoder in plain PyTorch, on images in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=3, padding=1),
            nn.ReLU(True),
            nn.MaxPool2d(2, stride=2),
            nn.Conv2d(16, 8, 3, stride=2, padding=1),
            nn.ReLU(True),
            nn.MaxPool2d(2, stride=1),
        )
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(8, 16, 3, stride=2),
            nn.ReLU(True),
            nn.ConvTranspose2d(16, 8, 5, stride=3, padding=1),
            nn.ReLU(True),
            nn.ConvTranspose2d(8, 1, 2, stride=2, padding=1),
            nn.Tanh(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.encoder(x))


def _pair() -> tuple[Autoencoder, Delta, Reference]:
    """The pair, and the reference with the same parameters."""
    model, guide = (kind(SPEC, network=MaxPooling).double() for kind in (Autoencoder, Delta))
    reference = Reference().double()
    for ours, theirs in _matched(reference, model, guide):
        theirs.data.copy_(ours.data)
    return model, guide, reference


def _matched(reference: Reference, model: Autoencoder, guide: Delta):
    ours = [*guide.encoder.parameters(), *model.decoder.parameters()]
    return zip(ours, reference.parameters(), strict=True)


def _squared_error(reference: Reference, x: torch.Tensor) -> torch.Tensor:
    image = 2 * x - 1
    return nn.MSELoss()(reference(image), image)


def test_the_shapes_layer_by_layer():
    model, guide, _ = _pair()
    shapes = []

    def note(_, __, output):
        shapes.append(tuple(output.shape[1:]))

    for network in (guide.encoder, model.decoder):
        for layer in network.layers:
            if not isinstance(layer, nn.ReLU):
                layer.register_forward_hook(note)
    model.decode(guide(torch.rand(2, 1, 28, 28).double()))
    assert shapes == [
        (16, 10, 10), (16, 5, 5), (8, 3, 3), (8, 2, 2), (32,),
        (8, 2, 2), (16, 5, 5), (8, 15, 15), (1, 28, 28),
    ]  # fmt: skip


def test_the_loss_is_the_mean_squared_error_up_to_a_constant_with_the_same_gradients():
    model, guide, reference = _pair()
    x = torch.rand(6, 1, 28, 28, dtype=torch.float64)
    loss = ELBO().loss(model, guide, x)
    loss.backward()
    error = _squared_error(reference, x)
    error.backward()
    # 784 pixels of a normal with variance 784 / 8 in units of [0, 1]
    constant = 784 / 2 * log(2 * pi * 784 / 8)
    assert loss.item() - constant == pytest.approx(error.item(), abs=1e-10)
    for ours, theirs in _matched(reference, model, guide):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-10)


def test_steps_of_adam_with_weight_decay_are_those_of_the_reference():
    model, guide, reference = _pair()
    optimizer = torch.optim.Adam(reference.parameters(), lr=1e-3, weight_decay=1e-5)
    step = SVIStep(model, guide, ELBO(), rule=Rule(weight_decay=1e-5))
    for _ in range(3):
        x = torch.rand(6, 1, 28, 28, dtype=torch.float64)
        step((x,), 1e-3)
        optimizer.zero_grad()
        _squared_error(reference, x).backward()
        optimizer.step()
    for ours, theirs in _matched(reference, model, guide):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_weight_decay_is_the_gradient_of_half_the_squared_norm():
    model, guide, by_hand = _pair()
    x = torch.rand(2, 1, 28, 28, dtype=torch.float64)
    step = SVIStep(model, guide, ELBO(), rule=Rule(weight_decay=0.3))
    step((x,), 1e-2)
    optimizer = torch.optim.Adam(by_hand.parameters(), lr=1e-2)
    penalty = sum(parameter.square().sum() for parameter in by_hand.parameters())
    (_squared_error(by_hand, x) + 0.3 / 2 * penalty).backward()
    optimizer.step()
    for ours, theirs in _matched(by_hand, model, guide):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_any_network_and_any_length_of_code_work():
    spec = Spec((1, 28, 28), "real", 5)
    pooled = Autoencoder(spec, network=MaxPooling), Delta(spec, network=MaxPooling)
    small = Spec((2, 5, 4), "real", 3)
    for model, guide in (pooled, (Autoencoder(small), Delta(small))):
        x = torch.rand(3, *model.spec.image_shape)
        check_pair(model, guide, x)
        mean = model.decode(guide(x)).mean
        assert mean.shape == x.shape
        assert ((mean > 0) & (mean < 1)).all()


def test_the_map_loss_of_a_delta_is_the_joint_density_at_its_point():
    spec = Spec((1, 3, 2), "real", 2)
    model, guide = VAE(spec), Delta(spec)
    x = torch.randn(5, 1, 3, 2)
    z = guide.posterior(x).mean
    joint = model.prior().log_prob(z) + model.decode(z).log_prob(x)
    assert torch.equal(guide(x), z)
    for objective in (ELBO(), ELBO(particles=3), ELBO(analytic_kl=True)):
        torch.testing.assert_close(objective.loss(model, guide, x), -joint.mean())


def test_what_needs_a_density_refuses_a_point():
    spec = Spec((1, 3, 2), "real", 2)
    model, guide = VAE(spec), Delta(spec)
    x = torch.randn(2, 1, 3, 2)
    for gradient in ("plain", "stl", "dreg"):
        with pytest.raises(
            InputError, match=r"IWAE cannot .* Delta is a point; choose a guide that is a density"
        ):
            check_objective(IWAE(2, gradient), model, guide, x)
    with pytest.raises(NotImplementedError, match=r"needs q.* as a density"):
        log_weights(model, guide, x, 3)


@pytest.mark.parametrize("kind", [DiagonalNormal, IAF])
def test_a_model_without_a_prior_refuses_a_guide_that_spreads(kind):
    spec = Spec((1, 3, 2), "real", 2)
    with pytest.raises(InputError, match=r"no density p.*choose --guide Delta"):
        check_pair(Autoencoder(spec), kind(spec), torch.rand(2, 1, 3, 2))


def test_other_data_are_refused():
    with pytest.raises(ValueError, match="Autoencoder needs real data; got binary data"):
        Autoencoder(Spec((1, 28, 28), "binary", 32))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An autoencoder trained for a moment."""
    return fit(
        data=Digits(dequantize="none"),
        model=Autoencoder,
        network=partial(MLP, hidden=(20,)),
        guide=Delta,
        latent_dim=2,
        epochs=2,
        weight_decay=1e-5,
        run=tmp_path_factory.mktemp("point") / "run",
    )


def test_a_run_says_nothing_of_a_bound_that_there_is_not(run, capsys):
    from ppl_vae.evaluate import _rows
    from ppl_vae.training.summary import report

    assert "ELBO" not in report(run)
    assert "distortion = -log p(x|z)" in report(run)
    result = evaluate(run, particles=7)
    stored = json.loads((run.path / "evaluation.json").read_text())
    assert stored == result
    for name in ("elbo", "rate", "log_likelihood"):
        assert result[f"{name}_nats_per_datum"] is None
        assert result[f"{name}_nats_per_datum_standard_error"] is None
    assert result["bits_per_dim"] is None
    assert result["undefined"] == "q(z|x) of Delta is a point, without a density"
    x = run.data.test[:]
    with torch.no_grad():
        mean = run.model.decode(run.guide(x)).mean
        distortion = -run.model.decode(run.guide(x)).log_prob(x).mean()
    assert result["distortion_nats_per_datum"] == pytest.approx(distortion.item(), rel=1e-5)
    error = (x - mean).square().mean().item()
    assert result["squared_error_per_pixel"] == pytest.approx(error, rel=1e-5)
    rows = _rows(result)
    assert rows["ELBO, log p(x)"].startswith("none: q(z|x) of Delta is a point")
    assert set(rows) == {"distortion", "squared error", "active units", "ELBO, log p(x)"}


@pytest.mark.parametrize("what", ["sample", "reconstruct", "manifold", "traverse", "interpolate"])
def test_everything_that_is_drawn_of_a_run_can_be_drawn(run, what):
    assert all(path.stat().st_size for path in generate(run, what, rows=3))


def test_weight_decay_is_kept_and_an_older_config_means_none(run):
    assert run.config["weight_decay"] == 1e-5
    config = run.path / "config.yaml"
    text = config.read_text()
    assert "weight_decay: 1.0e-05\n" in text
    config.write_text(text.replace("weight_decay: 1.0e-05\n", ""))
    try:
        assert "weight_decay" not in ppl_vae.load(run.path).config
    finally:
        config.write_text(text)


def test_a_delta_beside_a_density_trains_too(tmp_path):
    options = {"likelihood": Gaussian, "network": partial(MLP, hidden=(5,)), "latent_dim": 2}
    run = fit(guide=Delta, epochs=1, run=tmp_path / "run", **options)
    assert evaluate(run)["elbo_nats_per_datum"] is None
