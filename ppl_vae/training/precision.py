"""Mixed precision: the networks' matrix products in fewer bits, all else as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from models import Network
from ppl_vae.compiler.onednn import onednn_computes

__all__ = ["PRECISIONS", "matrix_precision", "slow_precision"]

PRECISIONS: dict[str, torch.dtype | None] = {"float32": None, "bfloat16": torch.bfloat16}


@contextmanager
def matrix_precision(dtype: torch.dtype | None, pair: nn.Module) -> Iterator[None]:
    """Has the networks of a pair compute in another type.

    Their parameters, inputs and outputs keep their own; so do densities, samples and sums of
    log-probabilities, which eight bits of mantissa would spoil.

    Args:
        dtype: The type, or None for no change.
        pair: The module that contains the networks.
    """
    networks = [module for module in pair.modules() if isinstance(module, Network) and dtype]
    for network in networks:
        network.precision = dtype
    try:
        yield
    finally:
        for network in networks:
            network.precision = None


def slow_precision(dtype: torch.dtype | None, device: torch.device) -> bool:
    """Whether a device has to emulate a type, which costs more than it saves."""
    if dtype != torch.bfloat16:
        return False
    if device.type == "cuda":
        return not torch.cuda.is_bf16_supported(including_emulation=False)
    return not onednn_computes(dtype)
