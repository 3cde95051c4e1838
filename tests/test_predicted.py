"""What the model draws beside the data."""

import numpy as np
import torch
from oracles import split_of

from ppl_vae.report.predicted import nearest, pixel_differences
from ppl_vae.runs.run import Run


def test_the_nearest_training_image(runs: list[Run]) -> None:
    train = split_of(runs[0].data.train.raw.float())
    x = train[[5, 900, 1290]] + 0.01
    distance, index = nearest(x, train, rows=100)
    brute = (x[:, None] - train[:][None]).square().flatten(2).mean(2).sqrt()
    torch.testing.assert_close(distance, brute.min(1).values, atol=1e-3, rtol=0)
    assert torch.equal(brute.gather(1, index[:, None])[:, 0], brute.min(1).values)


def test_pixels_of_one_distribution_differ_by_chance_alone() -> None:
    """Also pixels so dark that the data have none of them: standard normal, or nearly so."""
    generator = np.random.default_rng(0)
    share = np.repeat([0.0, 0.005, 0.3, 1.0], 200)
    data, drawn = (
        (generator.random((size, 1, 4, 200)) < share.reshape(1, 4, 200)).astype("uint8")
        for size in (500, 20_000)
    )
    apart = pixel_differences(data, drawn)[0]
    assert (apart[[0, 3]] == 0).all()
    assert (np.abs(apart[1:3]).max(1) < 4.5).all()
    np.testing.assert_allclose(apart[1:3].std(1), 1, atol=0.2)
    drawn[:, :, 2] = generator.random((20_000, 1, 200)) < 0.5
    assert (pixel_differences(data, drawn)[0, 2] > 5).all()
