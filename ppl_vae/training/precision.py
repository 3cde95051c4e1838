"""The precision of the networks' matrix products; all else is as it was."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from models import Network
from ppl_vae.compiler.onednn import onednn_computes
from ppl_vae.runs.settings import Precision

__all__ = [
    "PRECISIONS", "matrix_precision", "precisions_of", "rounded_operands", "slow_precision",
]  # fmt: skip

PRECISIONS: dict[Precision, torch.dtype | None] = {
    "float32": None,
    "bfloat16": torch.bfloat16,
    "tensorfloat32": None,
}
"""The type of the operands, where it is not that of the parameters."""


@contextmanager
def matrix_precision(precision: Precision, pair: nn.Module) -> Iterator[None]:
    """Has the networks of a pair compute in a precision.

    Their parameters, inputs and outputs keep their types; so do densities, samples and sums of
    log-probabilities, which eight bits of mantissa would spoil. `tensorfloat32` rounds the operands
    of all float32 products on a GPU to ten bits of mantissa.

    Args:
        precision: The precision.
        pair: The module that contains the networks.
    """
    networks = [module for module in pair.modules() if isinstance(module, Network)]
    before = [network.precision for network in networks]
    for network in networks:
        network.precision = PRECISIONS[precision]
    try:
        with rounded_operands(precision):
            yield
    finally:
        for network, dtype in zip(networks, before, strict=True):
            network.precision = dtype


def rounded_operands(precision: Precision) -> AbstractContextManager[None]:
    """Has cuBLAS and cuDNN take ten bits of mantissa of float32 operands in `tensorfloat32`."""
    return _rounded() if precision == "tensorfloat32" else nullcontext()


@contextmanager
def _rounded() -> Iterator[None]:
    libraries: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [library.allow_tf32 for library in libraries]
    for library in libraries:
        library.allow_tf32 = True
    try:
        yield
    finally:
        for library, allowed in zip(libraries, before, strict=True):
            library.allow_tf32 = allowed


def precisions_of(device: torch.device) -> list[Precision]:
    """Those that a device has; only GPUs round the operands of a product."""
    gpu = device.type == "cuda"
    return [each for each in PRECISIONS if gpu or each != "tensorfloat32"]


def slow_precision(precision: Precision, device: torch.device) -> bool:
    """Whether a device has to emulate a precision, which costs more than it saves."""
    if precision != "bfloat16":
        return False
    if device.type == "cuda":
        return not torch.cuda.is_bf16_supported(including_emulation=False)
    return not onednn_computes(torch.bfloat16)
