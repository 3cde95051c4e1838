"""What the pictures of `generate` say and show, and how few images are enough."""

from dataclasses import replace

import numpy as np
import pytest
from oracles import refused, split_of
from PIL import Image
from reports import train

import models
from ppl_vae.generate import generate
from ppl_vae.pictures import plots


def test_the_picture_of_a_traversal_gives_the_unit_of_its_effect(runs, tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(plots, "image_grid", lambda *_, title, **__: titles.append(title))
    monkeypatch.setattr(plots, "animation", lambda *_, **__: None)
    generate(runs[0], "traverse", steps=3, latents=1, out=tmp_path)
    assert titles[0].endswith(
        "; effect: root mean square change of $E[x|z]$ per pixel (a probability)"
    )


def test_the_picture_shows_as_many_samples_as_one_can_see(runs, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(plots, "image_grid", lambda images, *_, **__: shown.append(images.shape))
    generate(runs[0], "sample", count=1100, out=tmp_path)
    assert shown == [(32, 64, 1, 8, 8)]
    assert np.load(tmp_path / "sample.npz")["mean"].shape == (1100, 1, 8, 8)


def test_a_pair_of_images_needs_two(runs, tmp_path, monkeypatch):
    run = runs[0]
    monkeypatch.setattr(run, "data", replace(run.data, test=run.data.test.first(1)))
    with refused(
        "^--count: expected 2 test images, two for each pair; the data set has 1; add test images$"
    ):
        generate(runs[0], "interpolate", out=tmp_path)


@pytest.mark.parametrize("verb", ["sample", "reconstruct", "traverse", "interpolate"])
def test_real_data_outside_the_unit_interval_is_drawn(tmp_path, verb):
    run = train(tmp_path / "run", likelihood=models.Gaussian, latent_dim=3, epochs=1)
    run.data = replace(run.data, test=split_of(6 * run.data.test[:] - 3))
    paths = generate(run, verb, steps=3)
    with Image.open(paths[0]) as picture:
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20
