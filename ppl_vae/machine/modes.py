"""torch's modes, put aside and put back."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

__all__ = ["usual_modes"]


@contextmanager
def usual_modes() -> Iterator[None]:
    """torch's modes as in a fresh process: gradients, no autocast, float32, on the CPU."""
    dtype = torch.get_default_dtype()
    # A context, since the caller's may be one; without need it would slow every call of torch.
    usual = torch.get_default_device().type == "cpu"
    torch.set_default_dtype(torch.float32)
    try:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast("cpu", enabled=False),
            torch.autocast("cuda", enabled=False),
            nullcontext() if usual else torch.device("cpu"),
        ):
            yield
    finally:
        torch.set_default_dtype(dtype)
