"""One evaluation of log1p at -0, which makes all later ones on a CPU many times as fast.

Torch's vectorised log1p and expm1 end with a masked load of the constant for an argument of -0. The
constant lies in a page of the library that nothing else reads. As long as the page is not mapped, a
processor with AVX-512 has to suppress its fault in every call, some 600 cycles, and since the mask
is empty unless an argument is -0, it is never mapped. log p(x|z) of a Bernoulli takes a log1p for
each pixel.
"""

import torch

__all__ = ["map_constants"]


def map_constants() -> None:
    """Reads the constants of log1p and expm1 once, in whole vectors."""
    zeros = torch.full((64,), -0.0)
    zeros.log1p()
    zeros.expm1()
