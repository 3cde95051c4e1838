"""From a trained pair to whole numbers, and from the bytes of these back to them."""

from guides import Guide
from models import VAE, Hierarchical, Model, TopDown
from ppl_vae.coding.bottom_up_pair import BottomUpPair, Level, bottom_up_pair
from ppl_vae.coding.fixed_point import LAYERS
from ppl_vae.coding.integer_pair import IntegerPair
from ppl_vae.coding.latents import Bins, FullRank, Normal
from ppl_vae.coding.likelihoods import PIXELS
from ppl_vae.coding.networks import refused
from ppl_vae.coding.priors import Autoregressive, Even, Mixture
from ppl_vae.coding.serialized import DAMAGED, from_bytes
from ppl_vae.coding.tables import Table
from ppl_vae.coding.top_down_networks import TopDownNetworks
from ppl_vae.coding.top_down_pair import TopDownPair, top_down_pair
from ppl_vae.errors import InputError

__all__ = ["integer_pair", "restored"]

_CLASSES = (
    BottomUpPair, Level, TopDownPair, TopDownNetworks, Bins, Even, Autoregressive, Mixture, Normal,
    FullRank, Table, *PIXELS, *LAYERS,
)  # fmt: skip


def restored(data: bytes) -> IntegerPair:
    """The pair whose `data` these are.

    Raises:
        InputError: If they are those of none, or its decoder makes images of another shape.
    """
    pair = from_bytes(data, _CLASSES)
    try:
        pair.check()
    except (AttributeError, IndexError, MemoryError, TypeError, ValueError) as error:
        raise InputError(DAMAGED) from error
    return pair


def integer_pair(model: Model, guide: Guide) -> IntegerPair:
    """A trained pair in whole numbers.

    Args:
        model: A `VAE` or `Hierarchical` with the prior `StandardNormal`, `Flow` of one map or
            `MixtureOfNormals`, or a `TopDown` with a `StandardNormal`; and a likelihood of binary
            images or bytes.
        guide: A `DiagonalNormal`, a `FullRankNormal`, for two layers a `BottomUp`, or for groups a
            `Bidirectional`.

    Raises:
        InputError: If its data have missing pixels; it is another pair, whose latents have no
            one-dimensional distribution functions in turn; a network has no form in whole numbers;
            or a sum of one could reach 2^53.
    """
    if model.spec.holes:
        raise InputError(
            "expected a run of images without missing pixels, which an archive has no symbol for; "
            "this one was trained on images with some; train on complete images"
        )
    if type(model) is TopDown:
        return top_down_pair(model, guide)
    if type(model) not in (VAE, Hierarchical):
        raise refused("model", model, "VAE, Hierarchical or TopDown")
    assert isinstance(model, VAE | Hierarchical)
    return bottom_up_pair(model, guide)
