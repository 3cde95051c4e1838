"""What each level of a hierarchy holds fixed."""

from functools import partial

import numpy as np
import pytest
import torch
from reports import inspection_of
from tiny_runs import TINY, tiny, without_pictures

from guides import Bidirectional, Ladder
from models import Hierarchical, TopDown
from ppl_vae.data import Digits
from ppl_vae.densities.weights import log_terms
from ppl_vae.errors import InputError
from ppl_vae.generate import generate, levels
from ppl_vae.measures.encoding import decoded_mean
from ppl_vae.report.latent import rate_by_site
from ppl_vae.runs.run import Run

PAIRS = {
    "TopDown": {"model": partial(TopDown, groups=[[2, 1], [1, 2]]), "guide": Bidirectional},
    "Hierarchical": {"model": Hierarchical, "guide": Ladder},
}


@pytest.fixture(scope="module", params=PAIRS)
def run(request, tmp_path_factory) -> Run:
    path = tmp_path_factory.mktemp("levels") / "run"
    with without_pictures():
        return tiny(path, data=Digits(), epochs=1, engine="eager", **PAIRS[request.param])


def test_what_is_above_a_level_is_held_and_the_rest_is_drawn(run):
    arrays = levels(run, images=[3, 5], steps=4)
    model = run.model
    assert arrays["z"].shape == (len(model.latents), 2, 4, model.code_dim)
    assert arrays["mean"].shape == (len(model.latents), 2, 4, 1, 8, 8)
    expected = decoded_mean(model, torch.as_tensor(arrays["z"]))
    np.testing.assert_array_equal(arrays["mean"], expected.numpy())
    assert len(np.unique(arrays["mean"][-1, 0].reshape(4, -1), axis=0)) == 4
    if isinstance(model, TopDown):
        starts = np.cumsum([0, *model.dims])
        for level in range(len(model.latents)):
            z = arrays["z"][level]
            assert (z[..., : starts[level]] == arrays["z"][-1, :, :1, : starts[level]]).all()
            drawn = z[..., starts[level] :].reshape(8, -1)
            assert len(np.unique(drawn, axis=0)) == 8


def test_each_image_has_its_own_rows_in_the_picture(run, tmp_path):
    written = generate(run, "levels", images=[0, 1], steps=3, out=tmp_path)
    assert [path.name for path in written] == ["levels.png", "levels.npz"]
    again = levels(run, images=[0, 1], steps=3)
    with np.load(written[1]) as arrays:
        assert (arrays["mean"] == again["mean"]).all()


def test_one_latent_site_has_no_levels(tmp_path):
    with without_pictures():
        run = tiny(tmp_path / "run", epochs=1, network=TINY, engine="eager")
    with pytest.raises(InputError, match="levels need a model with several latent sites; VAE has"):
        levels(run)


def test_the_report_takes_the_rate_apart_by_site(run):
    inspection = inspection_of(run, 20)
    rates = rate_by_site(inspection)
    assert tuple(rates) == run.model.latents
    with torch.no_grad():
        terms = log_terms(run.model, run.guide, *inspection.batch(), 2000)
    draws = (terms.log_guide - terms.log_prior).mean(1)
    error = draws.std() / 10**0.5  # of ten draws for each image
    assert abs(sum(rates.values()) - draws.mean()) < 4 * error
