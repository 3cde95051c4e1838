"""The arithmetic of convolutions, and a convolution as a matrix.

Dumoulin and Visin (2016). i is the size of the input along one side, o that of the output, k the
size of the kernel, s the stride, p the zero padding on either side.
"""

import torch
from torch import Tensor
from torch.nn.functional import conv2d

__all__ = ["convolution_matrix", "convolved_size", "left_over", "transposed_size"]


def convolved_size(size: int, kernel_size: int, stride: int = 1, padding: int = 0) -> int:
    """o = floor((i + 2 p - k) / s) + 1, relationship 6; of a max-pooling, relationship 7 too."""
    return (size + 2 * padding - kernel_size) // stride + 1


def left_over(size: int, kernel_size: int, stride: int = 1, padding: int = 0) -> int:
    """a = (i + 2 p - k) mod s: how many of the last pixels the floor of `convolved_size` drops.

    Given to a transposed convolution as its output padding, it makes the size i again.
    """
    return (size + 2 * padding - kernel_size) % stride


def transposed_size(
    size: int, kernel_size: int, stride: int = 1, padding: int = 0, output_padding: int = 0
) -> int:
    """o' = s (i' - 1) + a + k - 2 p, relationship 14, for the convolution that it transposes.

    Args:
        size: i', the size of the smaller side, which is transposed up.
        kernel_size: k of the convolution.
        stride: s of the convolution.
        padding: p of the convolution.
        output_padding: a, what `left_over` gives for the size of the larger side.
    """
    return stride * (size - 1) + output_padding + kernel_size - 2 * padding


def convolution_matrix(
    kernel: Tensor, size: tuple[int, int], stride: int = 1, padding: int = 0
) -> Tensor:
    """The matrix C of a convolution: C x is the convolution of x, C^T y the transposed one of y.

    Images are read row by row into vectors; ibid., section 4.1. Deep learning's convolution does
    not flip its kernel.

    Args:
        kernel: w, (k, k).
        size: (H, W) of the input x.
        stride: s.
        padding: p.

    Returns:
        C, (o_H o_W, H W).

    Raises:
        ValueError: If the kernel is not a square, the stride is below 1, the padding below 0, or
            the padded input smaller than the kernel.
    """
    if kernel.dim() != 2 or kernel.shape[0] != kernel.shape[1]:
        raise ValueError(f"expected a square kernel (k, k); got {tuple(kernel.shape)}")
    if stride < 1 or padding < 0:
        raise ValueError(f"expected stride >= 1 and padding >= 0; got {stride} and {padding}")
    if min(size) < 1 or min(size) + 2 * padding < len(kernel):
        raise ValueError(f"expected an input of at least {len(kernel)} pixels a side; got {size}")
    # Column j is the convolution of the image whose pixel j is one.
    pixels = torch.eye(size[0] * size[1]).to(kernel).reshape(-1, 1, *size)
    return conv2d(pixels, kernel[None, None], stride=stride, padding=padding).flatten(1).mT
