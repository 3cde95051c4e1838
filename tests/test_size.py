"""The size of a pair is known, and said or refused, before it is built."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_runs import OPTIONS, exit_code

import ppl_vae.fit
from guides import DiagonalNormal
from models import MLP, VAE, Gaussian, Spec
from ppl_vae.errors import InputError
from ppl_vae.pairs.building import build_pair
from ppl_vae.training import size
from ppl_vae.training.size import check_activations, check_size

PIECES = {
    "model": VAE,
    "prior": None,
    "likelihood": Gaussian,
    "network": MLP,
    "guide": DiagonalNormal,
}
SMALL = Spec((1, 8, 8), "real", 3)


def bytes_of(spec: Spec) -> int:
    """Parameters, gradients and two averages, counted on a pair that was built."""
    return 4 * sum(p.nbytes for program in build_pair(spec, PIECES) for p in program.parameters())


def test_a_pair_without_room_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    count = bytes_of(SMALL) // 16
    for free in (bytes_of(SMALL) - 1, bytes_of(SMALL)):
        monkeypatch.setattr(size, "free_memory", lambda free=free: free)
        if free == bytes_of(SMALL):
            check_size(SMALL, PIECES)
        else:
            with pytest.raises(InputError, match=f"^the pair has {count:,} parameters, which take"):
                check_size(SMALL, PIECES)


def test_the_mean_of_the_parameters_takes_room_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(size, "free_memory", lambda: bytes_of(SMALL) * 6 // 4 - 1)
    check_size(SMALL, PIECES)
    with pytest.raises(InputError, match="GiB are free"):
        check_size(SMALL, PIECES, averaged=True)


def test_a_large_pair_is_announced(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    check_size(SMALL, PIECES)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(size, "_LARGE", bytes_of(SMALL))
    check_size(SMALL, PIECES)
    assert capsys.readouterr().err == (
        f"the pair has {bytes_of(SMALL) // 16:,} parameters, which take 0.0 GiB with their "
        "gradients and averages; Ctrl-C waits for the operation at hand\n"
    )


@pytest.mark.usefixtures("no_pictures", "empty_folder")
def test_an_absurd_size_is_one_line(fit_refuses: Callable[..., str]) -> None:
    line = fit_refuses(
        ["--latent_dim", "1000000000000"], "GiB are free; choose a smaller --network"
    )
    # 2 D outputs of 8 units and a bias in the encoder, D inputs of 8 units in the decoder.
    weights = 10**12 * (2 * 9 + 8) + 64 * 8 + 8 + 8 + 9 * 64
    assert line.startswith(f"error: the pair has {weights:,} parameters, which take 387,430.2 GiB")


@pytest.mark.usefixtures("no_pictures", "empty_folder")
def test_a_pair_that_cannot_be_built_without_values_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("size_looks.py").write_text(
        "from models import MLP\n\n\nclass Looks(MLP):\n"
        "    def __init__(self, inputs, outputs, hidden=(8,)):\n"
        "        super().__init__(inputs, outputs, hidden)\n"
        "        self.first = next(self.parameters()).max().item()\n"
    )
    monkeypatch.syspath_prepend(".")
    assert exit_code(ppl_vae.fit, *OPTIONS[2:], "--network", "size_looks.Looks") == 0


@pytest.mark.parametrize("images", [2, 50])
def test_activations_are_foreseen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], images: int
) -> None:
    """Of two layers in float32: 7 inputs, 5 results of tanh, and weights, which count once."""
    layers = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    shared = torch.rand(100, 3, requires_grad=True)  # of all images together

    def loss(count: int) -> torch.Tensor:
        return layers(torch.rand(count, 7)).square().sum() + (shared.exp() * 2).sum()

    needed = 4 * (images * (7 + 5 + 3) + 300)
    for free in (needed - 1, needed):
        monkeypatch.setattr(size, "free_memory", lambda free=free: free)
        if free == needed:
            check_activations(layers, loss, images)
        else:
            with pytest.raises(InputError, match=f"^a step on {images} images keeps 0.0 GiB for"):
                check_activations(layers, loss, images)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(size, "_LARGE", needed)
    check_activations(layers, loss, images)
    assert capsys.readouterr().err == (
        f"a step on {images} images keeps 0.0 GiB for its backward pass\n"
    )


@pytest.mark.usefixtures("no_pictures", "empty_folder")
def test_a_step_without_room_is_one_line(
    fit_refuses: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(size, "free_memory", lambda: 700_000)
    line = fit_refuses(
        ["--network.hidden", "[32]", "--batch_size", "1000"], "choose a smaller --batch_size or"
    )
    assert line.startswith("error: a step on 1,000 images keeps 0.0 GiB for its backward pass")
