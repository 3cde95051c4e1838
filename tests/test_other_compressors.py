"""What `compress --measure` says of other compressors."""

from pathlib import Path

import numpy as np
import pytest
from own_images import noise
from PIL import Image

from ppl_vae.coding.others import bits_of_others

JPEG_XL = """
from PIL import Image

Image.register_extension("JXL", ".jxl")
Image.register_save("JXL", lambda image, file, name: file.write(bytes(7)))
"""


@pytest.fixture
def jpeg_xl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A package as pillow-jxl-plugin, whose pictures are seven bytes each."""
    Image.init()
    for registered in ("SAVE", "EXTENSION"):
        monkeypatch.setattr(Image, registered, {**getattr(Image, registered)})
    (tmp_path / "pillow_jxl.py").write_text(JPEG_XL)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("jpeg_xl")
def test_jpeg_xl_is_measured_where_its_package_is_installed() -> None:
    images = noise(5, 1, 8, 8)
    assert bits_of_others(images, 256)["JXL"] == 8 * 7 / images.size  # one sheet


@pytest.mark.parametrize("levels", [2, 256])
def test_noise_costs_its_entropy(levels: int) -> None:
    images = noise(1000, 1, 8, 8) // (256 // levels)
    assert np.log2(levels) < min(bits_of_others(images, levels).values())
