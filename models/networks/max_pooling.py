"""The convolutional autoencoder's network: pooling down, transposed convolutions up."""

from math import prod

from torch import Tensor, nn

from models.networks.network import Network, image_and_vector
from models.spec import Shape

__all__ = ["MaxPooling"]


class MaxPooling(Network):
    """Convolutions with max-pooling down, and three transposed convolutions up.

    For an image of 28 x 28 and a vector of 32 it is, layer by layer,

    - down: C x 28 x 28 -> 16 x 10 x 10 (3 x 3, stride 3, padding 1) -> ReLU -> 16 x 5 x 5 (pooling
      2, stride 2) -> 8 x 3 x 3 (3 x 3, stride 2, padding 1) -> ReLU -> 8 x 2 x 2 (pooling 2,
      stride 1), flattened;
    - up: 8 x 2 x 2 -> 16 x 5 x 5 (3 x 3, stride 2) -> ReLU -> 8 x 15 x 15 (5 x 5, stride 3,
      padding 1) -> ReLU -> C x 28 x 28 (2 x 2, stride 2, padding 1).

    The way up ends at 12 n + 4 pixels for n at its beginning, and the way down takes these to n
    again, so these are the sizes that fit. A vector of another length than 8 n n gets one affine
    map more. Pixels in [0, 1] are mapped to [-1, 1] before the first convolution, whose padding is
    then grey rather than black.

    Args:
        inputs: (C, H, W) for an encoder, (F,) for a decoder.
        outputs: (F,) for an encoder, (C, H, W) for a decoder.

    Raises:
        ValueError: If there is not exactly one image side, or height or width are not among 16,
            28, 40, 52, 64, ...
    """

    def __init__(self, inputs: Shape, outputs: Shape) -> None:
        super().__init__(inputs, outputs)
        image, vector = image_and_vector(inputs, outputs)
        if any(size < 16 or size % 12 != 4 for size in image[1:]):
            raise ValueError(
                "expected images with height and width among 16, 28, 40, 52, 64, ... (12 n + 4); "
                f"got {image[1]} x {image[2]}"
            )
        top = (8, image[1] // 12, image[2] // 12)
        self.encodes = image is inputs
        fits = prod(vector) == prod(top)
        layers: list[nn.Module]
        if self.encodes:
            layers = [
                nn.Conv2d(image[0], 16, 3, stride=3, padding=1),
                nn.ReLU(),
                nn.MaxPool2d(2, stride=2),
                nn.Conv2d(16, 8, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.MaxPool2d(2, stride=1),
                nn.Flatten(),
            ]
            layers += [] if fits else [nn.Linear(prod(top), prod(vector))]
        else:
            layers = [] if fits else [nn.Linear(prod(vector), prod(top))]
            layers += [
                nn.Unflatten(1, top),
                nn.ConvTranspose2d(8, 16, 3, stride=2),
                nn.ReLU(),
                nn.ConvTranspose2d(16, 8, 5, stride=3, padding=1),
                nn.ReLU(),
                nn.ConvTranspose2d(8, image[0], 2, stride=2, padding=1),
            ]
        self.layers = nn.Sequential(*layers)

    def compute(self, x: Tensor) -> Tensor:
        return self.layers(2 * x - 1 if self.encodes else x)
