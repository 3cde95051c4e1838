"""The faces of one man in a video."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from models.spec import Domain
from ppl_vae.data.conversion import Conversion
from ppl_vae.data.data_set import DataSet
from ppl_vae.data.source import Images, Source, fixed_order
from ppl_vae.data.split import Data
from ppl_vae.errors import InputError, unreadable

__all__ = ["FreyFace"]

_FILE = "frey_rawface.mat"
_COUNT, _HEIGHT, _WIDTH = 1_965, 28, 20
_SIZES = (1_565, 200, 200)


@dataclass(frozen=True)
class FreyFace(DataSet):
    """1,965 frames of Brendan Frey's face, 28 x 20 pixels of 256 grey levels.

    1,565 to train on, 200 for validation and 200 for the test, by a fixed permutation. The frames
    are those of a video: such a random split puts near-duplicates of the training images into the
    other two, and the numbers measure interpolation rather than new faces.

    Args:
        root: The folder that holds `FreyFace/frey_rawface.mat` or `frey_rawface.mat`.
    """

    root: Path = Path("data")
    default_domain: ClassVar[Domain] = "real"

    def load(self, domain: Domain, seed: int) -> Data:
        conversion = Conversion.choose(self, domain, 256)
        images = Images(self._read())
        train, validation, test = fixed_order(len(images)).split(_SIZES)
        return conversion(Source(images[train], images[validation], images[test]), seed)

    def _read(self) -> Tensor:
        root = self.root
        path = next((p for p in (root / "FreyFace" / _FILE, root / _FILE) if p.is_file()), None)
        if path is None:
            raise InputError(
                f"expected FreyFace/{_FILE} or {_FILE} in {root.absolute()}; there is neither; "
                "name the folder with --data.root DIR"
            )
        from scipy.io import loadmat

        try:
            frames = np.asarray(loadmat(path, variable_names=["ff"])["ff"])
        except Exception as error:
            raise unreadable(path, error, f"replace it with the original {_FILE}") from error
        if frames.shape != (_HEIGHT * _WIDTH, _COUNT) or frames.dtype != np.uint8:
            raise InputError(
                f"expected ff of {_HEIGHT * _WIDTH} x {_COUNT} bytes in {path}; got {frames.dtype} "
                f"of shape {frames.shape}; replace it with the original {_FILE}"
            )
        upright = np.ascontiguousarray(frames.T).reshape(_COUNT, 1, _HEIGHT, _WIDTH)
        return torch.from_numpy(upright)
