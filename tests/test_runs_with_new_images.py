"""A run takes new images: it converts, encodes, reconstructs and scores them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_images import noise, save_pictures
from PIL import Image
from reports import train
from sklearn.datasets import load_digits
from tiny_runs import TINY

from guides import ConditionalNormal, Delta, SemiSupervisedNormal
from models import Autoencoder, Conditional, Gaussian, SemiSupervised
from models.likelihoods import ContinuousBernoulli, DiscretizedLogistic
from ppl_vae import load
from ppl_vae.data import Arrays, Data, Digits, ImageFolder
from ppl_vae.errors import InputError
from ppl_vae.evaluate import evaluate
from ppl_vae.latents.views import reconstruct
from ppl_vae.runs.run import Run


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(tmp_path_factory.mktemp("new") / "run")


@pytest.fixture(scope="module")
def grey_digits() -> np.ndarray:
    """The test images of the digits as scikit-learn has them: levels of 0 to 16."""
    scaled = Digits(dequantize="none").load("real", 0).test[:].numpy()
    levels = np.round(16 * scaled).astype(np.uint8)
    known = {image.astype(np.uint8).tobytes() for image in load_digits().images}
    assert all(image.tobytes() in known for image in levels)
    return levels


def test_a_loaded_run_converts_without_its_data(digits: Run, grey_digits: np.ndarray) -> None:
    run = load(digits.path, device="cpu")
    images = run.split_of(grey_digits)
    assert "data" not in vars(run)
    assert run.facts.plain() == digits.data.plain()
    assert not isinstance(run.facts, Data)
    # The test images of the run, drawn as they were.
    assert torch.equal(images[:], digits.data.test[:])


def test_scores_are_those_of_evaluate(digits: Run, grey_digits: np.ndarray) -> None:
    result = evaluate(digits, particles=20)
    for images in (grey_digits, digits.data.test, digits.data.test[:], list(grey_digits)):
        scores = digits.score(images, particles=20)
        for name in ("elbo", "rate", "distortion", "log_likelihood"):
            mean = result[f"{name}_nats_per_datum"]
            assert getattr(scores, name).mean().item() == mean
    assert torch.equal(
        digits.score(grey_digits, particles=20, seed=1).elbo,
        digits.score(grey_digits, particles=20, seed=1).elbo,
    )
    assert not torch.equal(digits.score(grey_digits, particles=20, seed=1).elbo, scores.elbo)


def test_means_are_those_of_the_pair(digits: Run, grey_digits: np.ndarray) -> None:
    x = digits.data.test[:]
    with torch.no_grad():
        z = digits.guide.posterior(x).mean
        mean = digits.model.decode(z).mean
    for images in (grey_digits, x, digits.data.test):
        torch.testing.assert_close(digits.encode(images), z)
        torch.testing.assert_close(digits.reconstruct(images), mean)
    assert digits.reconstruct(grey_digits[0]).shape == (1, 1, 8, 8)


def test_grey_levels_are_no_images_of_a_binary_guide(digits: Run) -> None:
    grey = 16 * digits.data.test[:5]
    with pytest.raises(ValueError, match=r"expected binary images.* got values from 0 to 16"):
        digits.guide.posterior(grey)
    digits.guide.posterior(digits.data.test[:5])
    digits.guide(grey)  # the program itself is not slowed down


def test_probabilistic_pca_scores_log_p_exactly(tmp_path: Path, exact_pair: Any) -> None:
    """With the exact posterior every weight is p(x), for any number of particles."""
    model, guide, x = exact_pair
    np.save(tmp_path / "images.npy", np.random.default_rng(0).normal(size=(30, 3, 2)))
    run = train(tmp_path / "run", data=Arrays(path=tmp_path / "images.npy"), batch_size=10)
    run.model, run.guide, run.spec = model.float(), guide.float(), model.spec
    images = x.float()
    scores = run.score(images.numpy()[:, 0], particles=3)
    exact = run.model.log_likelihood(images).double()
    for values in (scores.elbo, scores.log_likelihood):
        torch.testing.assert_close(values, exact, rtol=1e-4, atol=1e-4)


def test_a_run_of_an_earlier_release_reads_its_data(digits: Run, monkeypatch: Any) -> None:
    from ppl_vae.runs import restoring

    read = restoring.read_checkpoint

    def earlier(path: Path) -> Any:
        tensors, state = read(path)
        return tensors, {name: value for name, value in state.items() if name != "data"}

    monkeypatch.setattr(restoring, "read_checkpoint", earlier)
    old = load(digits.path, device="cpu")
    assert old.facts is old.data
    assert torch.equal(old.encode(digits.data.test), digits.encode(digits.data.test))


def test_standardised_values_are_standardised_by_the_training_images(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(3, 5, size=(40, 4, 3)).astype(np.float32)
    np.save(tmp_path / "images.npy", values)
    data = Arrays(path=tmp_path / "images.npy", scale="standard")
    fitted = train(tmp_path / "run", data=data, batch_size=10)
    run = load(tmp_path / "run", device="cpu")
    new = np.random.default_rng(1).normal(size=(5, 4, 3)).astype(np.float32)
    train_values = values.astype(np.float64)  # of the images to train on
    known = fitted.data.train.raw.numpy().astype(np.float64)
    assert np.isin(known, train_values).all()
    expected = (new - known.mean()) / known.std()
    np.testing.assert_allclose(run.split_of(new)[:].numpy()[:, 0], expected, rtol=1e-5, atol=1e-6)
    # What is made of them has the units of the data again.
    with torch.no_grad():
        standard = run.model.decode(run.encode(new)).mean.numpy()
    np.testing.assert_allclose(
        run.reconstruct(new), known.mean() + known.std() * standard, rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(
        reconstruct(run, count=3)["original"], run.data.test.raw[:3], rtol=1e-5, atol=1e-5
    )


def test_models_with_classes(tmp_path: Path) -> None:
    run = train(tmp_path / "given", model=Conditional, guide=ConditionalNormal)
    test = run.data.test
    with pytest.raises(InputError, match="Conditional takes the class of an image as given; give"):
        run.encode(test[:3])
    z = run.encode(test[:3], test.labels[:3])
    with torch.no_grad():
        torch.testing.assert_close(z, run.guide.posterior(test[:3], test.labels[:3]).mean)
    torch.testing.assert_close(z, run.encode(test.first(3)))
    assert torch.equal(
        run.score(test[:9], test.labels[:9], particles=2).elbo,
        run.score(test.first(9), particles=2).elbo,
    )
    with pytest.raises(InputError, match=r"one label for each of 3 images.* of shape \(2,\)"):
        run.encode(test[:3], test.labels[:2])
    with pytest.raises(InputError, match="expected one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9; got 11"):
        run.encode(test[:1], [11])
    summed = train(
        tmp_path / "summed", model=SemiSupervised, guide=SemiSupervisedNormal, labels=100
    )
    assert summed.encode(test[:3]).shape == (3, 2)


def test_a_point_has_a_distortion_only(tmp_path: Path) -> None:
    run = train(tmp_path / "run", model=Autoencoder, guide=Delta)
    scores = run.score(run.data.test.first(7))
    result = evaluate(run, data_points=7)
    assert scores.distortion.mean().item() == result["distortion_nats_per_datum"]
    assert scores.elbo.isnan().all()


def test_a_folder_given_to_a_run(tmp_path: Path, digits: Run) -> None:
    """Every picture of it, in the order of their names, as if their paths were given."""
    folder = save_pictures(tmp_path / "folder", noise(30, 8, 8))
    paths = sorted(folder.path.glob("*.png"))
    assert torch.equal(digits.split_of(folder)[:], digits.split_of(paths)[:])


@pytest.mark.parametrize("crop", ["none", "center"])
def test_pictures_are_brought_to_the_size_of_the_run(tmp_path: Path, crop: Any) -> None:
    save_pictures(tmp_path / "own", noise(30, 12, 9))
    data_set = ImageFolder(path=tmp_path / "own", size=[8, 6], crop=crop)
    run = load(
        train(tmp_path / "run", data=data_set, likelihood=DiscretizedLogistic, epochs=1).path
    )
    colours = np.random.default_rng(1).integers(256, size=(2, 20, 20, 3), dtype=np.uint8)
    (tmp_path / "other").mkdir()
    paths = [tmp_path / "other" / f"{number}.png" for number in range(2)]
    for path, colour in zip(paths, colours, strict=True):
        Image.fromarray(colour).save(path)
    same = ImageFolder(path=tmp_path / "other", size=[8, 6], crop=crop, colour="grey")
    expected = same.load("bytes", 0).all[:]
    assert torch.equal(run.split_of(paths)[:], expected)
    assert torch.equal(run.split_of(ImageFolder(path=tmp_path / "other"))[:], expected)
    assert evaluate(run, data=ImageFolder(path=tmp_path / "other"), particles=2)["data_points"] == 2


@pytest.mark.parametrize(
    "likelihood", [Gaussian, ContinuousBernoulli, DiscretizedLogistic], ids=lambda c: c.__name__
)
def test_every_domain_through_a_run(
    tmp_path: Path, likelihood: Callable[..., Any], grey_digits: np.ndarray
) -> None:
    run = train(tmp_path / "run", likelihood=likelihood, network=TINY, epochs=1)
    assert torch.equal(run.split_of(grey_digits)[:], run.data.test[:])
