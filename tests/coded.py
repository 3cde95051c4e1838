"""Images for the coder of a pair, and their way there and back."""

import numpy as np

from models import Model
from ppl_vae.coding import decode, encode
from ppl_vae.coding.conversion import restored
from ppl_vae.coding.integer_pair import IntegerPair

__all__ = ["check_they_come_back", "images_of"]


def images_of(model: Model, count: int) -> np.ndarray:
    """Draws of the model, constant images, and noise, which it holds for all but impossible."""
    top = 255 if model.spec.domain == "bytes" else 1
    drawn = model(size=count).detach().numpy()
    constant = np.full((2, *model.spec.image_shape), top) * np.array([0, 1]).reshape(2, 1, 1, 1)
    noise = np.random.default_rng(0).integers(0, top + 1, (count, *model.spec.image_shape))
    return np.concatenate([drawn, constant, noise]).astype(np.uint8)


def check_they_come_back(pair: IntegerPair, images: np.ndarray) -> None:
    """From the pair, coded one by one and together, and from the pair as an archive has it."""
    for batch in (1, 7, 100):
        words, batches = encode(pair, images, batch)
        assert np.array_equal(decode(pair, words, len(images), batches, batch), images)
    again = restored(pair.data)
    assert again.digest == pair.digest
    assert np.array_equal(decode(again, words, len(images), batches, 100), images)
