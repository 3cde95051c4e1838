"""The matrix of a convolution, against SciPy and the figures of Dumoulin and Visin (2016)."""

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d, correlate2d
from torch.nn.functional import conv2d, conv_transpose2d

from models.networks.convolution_arithmetic import (
    convolution_matrix,
    convolved_size,
    left_over,
    transposed_size,
)
from ppl_vae.pictures.convolution import draw_convolution

W = torch.arange(1.0, 10).reshape(3, 3).double()


def test_figure_2_1_a_3_x_3_kernel_over_4_x_4_pixels():
    # i = 4, k = 3, s = 1, p = 0: 2 x 2 values, and the matrix is written out in section 4.1.
    (a, b, c), (d, e, f), (g, h, i) = W.tolist()
    expected = [
        [a, b, c, 0, d, e, f, 0, g, h, i, 0, 0, 0, 0, 0],
        [0, a, b, c, 0, d, e, f, 0, g, h, i, 0, 0, 0, 0],
        [0, 0, 0, 0, a, b, c, 0, d, e, f, 0, g, h, i, 0],
        [0, 0, 0, 0, 0, a, b, c, 0, d, e, f, 0, g, h, i],
    ]
    assert convolution_matrix(W, (4, 4)).tolist() == expected
    assert convolved_size(4, 3) == 2
    assert transposed_size(2, 3) == 4


def test_figure_4_5_the_transpose_of_a_strided_convolution():
    # i = 5, k = 3, s = 2, p = 0: equivalent to a 3 x 3 kernel, flipped, over the 2 x 2 input with
    # one zero between its values (3 x 3) and a border of two zeros, with unit strides.
    matrix = convolution_matrix(W, (5, 5), stride=2)
    assert matrix.shape == (4, 25)
    assert convolved_size(5, 3, 2) == 2
    assert transposed_size(2, 3, 2) == 5
    assert left_over(5, 3, 2) == 0
    y = np.random.default_rng(0).normal(size=(2, 2))
    stretched = np.zeros((3, 3))
    stretched[::2, ::2] = y
    expected = correlate2d(np.pad(stretched, 2), np.flip(W.numpy()), mode="valid")
    got = (matrix.mT @ torch.tensor(y).flatten()).reshape(5, 5)
    assert expected.shape == (5, 5)
    np.testing.assert_allclose(got, expected, atol=1e-12)
    np.testing.assert_allclose(got, convolve2d(stretched, W.numpy(), mode="full"), atol=1e-12)


@pytest.mark.parametrize("size", [(5, 5), (7, 4), (6, 9)], ids=str)
@pytest.mark.parametrize("kernel_size", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1])
def test_a_convolution_is_c_and_its_transpose_is_c_transposed(size, kernel_size, stride, padding):
    kernel = torch.randn(kernel_size, kernel_size, dtype=torch.float64)
    matrix = convolution_matrix(kernel, size, stride, padding)
    x = torch.randn(*size, dtype=torch.float64)
    correlation = correlate2d(np.pad(x.numpy(), padding), kernel.numpy(), mode="valid")
    down = correlation[::stride, ::stride]
    assert down.shape == tuple(convolved_size(i, kernel_size, stride, padding) for i in size)
    np.testing.assert_allclose(matrix @ x.flatten(), down.ravel(), atol=1e-12)
    y = torch.randn(*down.shape, dtype=torch.float64)
    rest = tuple(left_over(i, kernel_size, stride, padding) for i in size)
    if max(rest) < max(stride, 1):  # what torch takes as output padding
        up = conv_transpose2d(
            y[None, None], kernel[None, None], stride=stride, padding=padding, output_padding=rest
        )
        torch.testing.assert_close(up.flatten(), matrix.mT @ y.flatten(), rtol=0, atol=1e-12)
    for i, o, a in zip(size, down.shape, rest, strict=True):
        assert transposed_size(o, kernel_size, stride, padding, a) == i


def test_c_is_what_differentiating_a_convolution_gives():
    matrix = convolution_matrix(W, (6, 5), stride=2, padding=1)
    jacobian = torch.autograd.functional.jacobian(
        lambda x: conv2d(x.reshape(1, 1, 6, 5), W[None, None], stride=2, padding=1).flatten(),
        torch.zeros(30, dtype=torch.float64),
    )
    assert torch.equal(matrix, jacobian)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((torch.ones(2, 3), (4, 4)), r"expected a square kernel \(k, k\); got \(2, 3\)"),
        ((W, (4, 4), 0), "expected stride >= 1 and padding >= 0; got 0 and 0"),
        ((W, (4, 4), 1, -1), "expected stride >= 1 and padding >= 0; got 1 and -1"),
        ((W, (2, 4)), r"expected an input of at least 3 pixels a side; got \(2, 4\)"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        convolution_matrix(*arguments)


def test_the_picture_shows_every_weight(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    seen = []
    original = Figure.savefig

    def keep(figure, *arguments, **options):
        seen.extend(text.get_text() for text in figure.axes[0].texts)
        return original(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    draw_convolution(tmp_path / "c.png")
    assert (tmp_path / "c.png").stat().st_size > 1000
    for row in range(3):
        for column in range(3):
            assert seen.count(f"$w_{{{row},{column}}}$") == 4  # once in each row of C
    assert seen.count("0") == 4 * 16 - 4 * 9
