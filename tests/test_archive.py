"""Every damage of an archive is found, and a forged one takes no memory."""

import json
import lzma
import resource
import zlib
from collections.abc import Callable
from dataclasses import asdict, replace
from hashlib import sha256

import numpy as np
import pytest
import torch

import ppl_vae.coding.archive as archive_module
from guides import DiagonalNormal
from models import MLP, VAE, Spec
from ppl_vae.coding.archive import Archive, Header, block_size, embedded, pack
from ppl_vae.coding.compressing import archived, blocks_of, pair_in
from ppl_vae.coding.conversion import integer_pair
from ppl_vae.coding.integer_pair import IntegerPair
from ppl_vae.coding.originals import InMemory
from ppl_vae.errors import InputError

SHAPE = (1, 4, 4)
IN_A_BLOCK = 20


@pytest.fixture(scope="module")
def pair() -> IntegerPair:
    return small_pair()


def small_pair() -> IntegerPair:
    spec = Spec(SHAPE, "binary", 2)
    network = lambda i, o: MLP(i, o, (3,))  # noqa: E731
    return integer_pair(VAE(spec, network=network), DiagonalNormal(spec, network=network))


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_module, "_MOST_IMAGES", IN_A_BLOCK)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2, (50, *SHAPE)).astype(np.uint8)


def archive_of(pair: IntegerPair, images: np.ndarray, **options) -> bytes:
    return archived(pair, InMemory(images, SHAPE, 2), **options)


def read(
    data: bytes, pair: IntegerPair | None, lost: list[str] | None = None
) -> dict[int, np.ndarray]:
    """The images of each block, by the number of the first."""
    archive = Archive(data, salvage=lost is not None)
    return dict(blocks_of(archive, pair_in(archive, pair), lost=lost))


def joined(blocks: dict[int, np.ndarray]) -> np.ndarray:
    return np.concatenate([*blocks.values()])


def found(data: bytes, pair: IntegerPair | None, images: np.ndarray) -> bool:
    """Whether damage is found; where it is not, every image has to be right."""
    try:
        blocks = read(data, pair)
    except InputError:
        return True
    assert np.array_equal(joined(blocks), images)
    return False


def test_images_come_back_block_by_block(pair, images) -> None:
    blocks = read(archive_of(pair, images), pair)
    assert {start: len(block) for start, block in blocks.items()} == {0: 20, 20: 20, 40: 10}
    assert np.array_equal(joined(blocks), images)


def test_an_embedded_model_decodes_without_the_run(images) -> None:
    pair = small_pair()
    assert np.array_equal(joined(read(archive_of(pair, images, embed_model=True), None)), images)
    with pytest.raises(InputError, match="name the run"):
        read(archive_of(pair, images), None)


def test_another_model_is_refused_by_both_digests(pair, images) -> None:
    torch.manual_seed(1)
    other = small_pair()
    with pytest.raises(InputError) as caught:
        read(archive_of(pair, images), other)
    assert pair.digest[:16] in str(caught.value)
    assert other.digest[:16] in str(caught.value)


def test_every_byte_is_guarded(pair, images) -> None:
    data = archive_of(pair, images)
    for place in range(len(data)):
        for flip in (1, 128):
            damaged = bytearray(data)
            damaged[place] ^= flip
            assert found(bytes(damaged), pair, images), place


def test_bytes_of_an_embedded_model_are_guarded(pair, images) -> None:
    data = archive_of(pair, images, embed_model=True)
    for place in np.random.default_rng(0).integers(0, len(data), 200):
        damaged = bytearray(data)
        damaged[place] ^= 1
        assert found(bytes(damaged), None, images), place


def test_every_truncation_and_anything_appended_is_found(pair, images) -> None:
    data = archive_of(pair, images)
    for length in range(len(data)):
        assert found(data[:length], pair, images)
    for more in (b"\0", data):
        assert found(data + more, pair, images)


def test_blocks_cannot_change_places_or_archives(pair, images) -> None:
    archive = Archive(archive_of(pair, images[:40]))
    first, second = archive._places[1:]
    data = bytearray(archive._data)
    data[first], data[second] = data[second], data[first]
    assert found(bytes(data), pair, images[:40])
    ours, theirs = archive_of(pair, images[:40]), archive_of(pair, images[10:])
    for cut in range(0, min(len(ours), len(theirs)), 7):
        spliced = ours[:cut] + theirs[cut:]
        assert spliced in (ours, theirs) or found(spliced, pair, images[:40])


def test_salvage_gives_the_blocks_that_are_whole(pair, images) -> None:
    data = archive_of(pair, images)
    places = Archive(data)._places
    damaged = bytearray(data)
    damaged[places[2].start] ^= 1
    lost: list[str] = []
    blocks = read(bytes(damaged), pair, lost)
    assert lost == ["block 2, images 20 to 39,"]
    assert list(blocks) == [0, 40]
    assert np.array_equal(joined(blocks), np.delete(images, slice(20, 40), 0))
    cut = data[: places[2].start + 5]
    with pytest.raises(InputError, match="salvage"):
        read(cut, pair)
    lost = []
    blocks = read(cut, pair, lost)
    assert list(blocks) == [0]
    assert np.array_equal(blocks[0], images[:20])
    assert len(lost) == 2


def test_another_version_is_refused(pair, images) -> None:
    data = bytearray(archive_of(pair, images))
    data[8] = 2
    with pytest.raises(InputError, match="version 1; got version 2"):
        Archive(bytes(data))


FORGERIES: list[Callable[[Header], Header]] = [
    lambda h: replace(h, image_shape=(2**20, 2**20, 2**20)),
    lambda h: replace(h, blocks=(replace(h.blocks[0], images=10**15),)),
    lambda h: replace(h, blocks=(replace(h.blocks[0], size=10**15),)),
    lambda h: replace(h, blocks=(replace(h.blocks[0], batches=[10**15]),)),
    lambda h: replace(h, blocks=(replace(h.blocks[0], batches=[0]),)),
    lambda h: replace(h, blocks=(replace(h.blocks[0], images=1.5),)),
    lambda h: replace(h, batch=0),
    lambda h: replace(h, model=None),
    lambda h: replace(h, embedded=(10**15, 10**15, "")),
    lambda h: replace(h, blocks="blocks"),
]


@pytest.mark.parametrize("forge", FORGERIES)
def test_a_forged_header_is_refused_and_allocates_nothing(pair, images, forge) -> None:
    archive = Archive(archive_of(pair, images))
    words = [archive._data[place] for place in archive._places[1:]]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError):
        read(forged(forge(archive.header), words), pair)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def forged(header, words: list[bytes]) -> bytes:
    """An archive whose digests are right."""
    return pack(header, b"", words)


def test_a_forged_model_is_refused(pair, images) -> None:
    archive = Archive(archive_of(pair, images, embed_model=True))
    words = [archive._data[place] for place in archive._places[1:]]
    line, _, arrays = pair.data.partition(b"\n")
    for old, new in (
        (b'"shape":[3,16]', b'"shape":[30000000,16000000]'),
        (b'"shape":[3,16]', b'"shape":[16,3]'),
        (b'"shape":[3,16]', b'"shape":"3"'),
        (b'"class":"Affine"', b'"class":"Path"'),
        (b'"class":"Affine"', b'"class":"Rectifier"'),
        (b'"class":"IntegerPair"', b'"class":"Bins"'),
        (b'"size":2', b'"size":2000000000'),
        (b'"size":2', b'"size":"2"'),
        (b"[1,4,4]", b"[1,400000,400000]"),
        (b'"class":"Even"', b'"class":"Rectifier","slope":0'),
        (b"{", b"["),
    ):
        assert old in line
        data = line.replace(old, new, 1) + b"\n" + arrays
        inside, packed = embedded(data)
        header = replace(archive.header, embedded=inside, model=sha256(data).hexdigest())
        with pytest.raises(InputError) as caught:
            read(pack(header, packed, words), None)
        assert "\n" not in str(caught.value)
    bomb = lzma.compress(bytes(2**28), lzma.FORMAT_XZ, lzma.CHECK_NONE)
    digest = archive_module._digest(bomb).hex()
    header = replace(archive.header, embedded=(len(bomb), 2**28, digest))
    with pytest.raises(InputError, match="larger"):
        read(pack(header, bomb, words), None)


def test_a_header_is_not_unpacked_without_end(pair, images) -> None:
    header = Archive(archive_of(pair, images)).header
    bomb = zlib.compress(json.dumps(asdict(header)).encode() + b" " * 2**27, 9)
    start = (
        archive_module.MAGIC + (1).to_bytes(2, "little") + len(bomb).to_bytes(4, "little") + bomb
    )
    with pytest.raises(InputError, match="not one that compress writes"):
        Archive(start + archive_module._digest(start))


def test_a_block_has_a_bounded_number_of_pixels(monkeypatch) -> None:
    monkeypatch.undo()
    assert block_size((1, 28, 28)) == 4096
    assert block_size((3, 512, 512)) == 5
    assert block_size((3, 4096, 4096)) == 1
