"""Archives of pairs of many groups, however the stack happens to be filled."""

from dataclasses import replace

import numpy as np
import torch

from guides import Bidirectional
from models import Linear, Spec, TopDown
from ppl_vae.coding import decode, encode, integer_pair
from ppl_vae.coding.top_down_pair import TopDownPair


def test_every_length_of_the_stack_comes_back() -> None:
    """Images that cost little leave the stack about as long as the latents of the next need."""
    torch.manual_seed(0)
    spec = Spec((1, 8, 8), "binary", 4)
    model = TopDown(spec, network=Linear, groups=[[1, 1], [1, 4]])
    guide = Bidirectional(spec, model, network=Linear)
    with torch.no_grad():
        for parameter in [*model.parameters(), *guide.parameters()]:
            parameter.zero_()
        model.decoder.linear.bias.fill_(-9.0)  # nearly black images
        loc, log_scale = guide.joining[0].linear.bias.chunk(2)  # q a little apart from p
        loc.fill_(0.1)
        log_scale.fill_(-0.1)
    pair = integer_pair(model, guide)
    assert isinstance(pair, TopDownPair)
    rng = np.random.default_rng(5)
    for _ in range(20):
        finest = tuple(rng.integers(0, 11, len(bits)) for bits in pair.finest)
        some = replace(pair, finest=finest)
        shape = (int(rng.integers(1, 60)), 1, 8, 8)
        images = (rng.random(shape) < rng.choice([0, 0.002, 0.01])).astype(np.uint8)
        words, batches = encode(some, images)
        assert np.array_equal(decode(some, words, len(images), batches), images)
