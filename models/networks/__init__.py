"""Networks between images, latent vectors and features, one a file."""

from models.networks.cells import Cells
from models.networks.convolutional import Convolutional
from models.networks.gated_mlp import GatedMLP
from models.networks.max_pooling import MaxPooling
from models.networks.mlp import MLP, Linear
from models.networks.network import Network, NetworkFactory
from models.networks.residual import Residual

__all__ = [
    "MLP",
    "Cells",
    "Convolutional",
    "GatedMLP",
    "Linear",
    "MaxPooling",
    "Network",
    "NetworkFactory",
    "Residual",
]
