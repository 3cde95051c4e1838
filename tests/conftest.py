"""Seeds and settings of every test, and fixtures of several test files."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from oracles import exact_guide
from serving import Processes, serving
from tiny_runs import OPTIONS, exit_code, tiny, tree, without_pictures
from torch import Tensor

import ppl_vae.fit
from guides import FullRankNormal
from models import BetaBinomial, ProbabilisticPCA, Spec
from ppl_vae.compiler.compiling import trace_programs
from ppl_vae.data import Arrays, DataSet
from ppl_vae.errors import InputError
from ppl_vae.runs.run import Run

# Several tests at a time share the cores, and threads that wait for each other's core are many
# times slower than one.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _on_the_cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hides GPUs, which `auto` would take, from all tests but those that are about them."""
    if "gpu" not in request.keywords:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(autouse=True)
def _seeded_and_restored() -> Iterator[None]:
    """Seeds every random state, and undoes what a test sets for the whole process."""
    settings, dtype = pyro.settings.get(), torch.get_default_dtype()
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    yield
    pyro.settings.set(**settings)
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture
def no_pictures() -> Iterator[None]:
    with without_pictures():
        yield


@pytest.fixture(scope="module")
def binary(tmp_path_factory) -> Run:
    """A run on binary images."""
    with without_pictures():
        return tiny(tmp_path_factory.mktemp("runs") / "binary", device="cpu")


@pytest.fixture(scope="module")
def in_bytes(tmp_path_factory) -> Run:
    """A run on bytes."""
    with without_pictures():
        place = tmp_path_factory.mktemp("runs") / "bytes"
        return tiny(place, likelihood=BetaBinomial, device="cpu")


@pytest.fixture
def empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty current folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def traced_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiled step runs its graph as it was traced: inductor takes ten times as long."""
    monkeypatch.setattr(
        "ppl_vae.training.step.compile_programs",
        lambda programs, batch, scheduled, *rest: trace_programs(programs, batch, scheduled),
    )
    monkeypatch.setattr("ppl_vae.training.drawing.compile_graph", lambda graph, examples: graph)


@pytest.fixture(scope="session")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    with serving(tmp_path_factory.mktemp("processes")) as processes:
        yield processes


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with MNIST/raw and FreyFace, or a skipped test."""
    root = os.environ.get("PPL_VAE_DATA")
    if root is None or not Path(root).is_dir():
        pytest.skip("no real data: PPL_VAE_DATA does not name a folder with MNIST and FreyFace")
    return Path(root)


@pytest.fixture
def refused() -> Callable[..., str]:
    """Loads a data set that must be refused, in one line with all of what is named."""

    def load(data_set: DataSet, domain, *said: str) -> str:
        before = torch.get_rng_state()
        with pytest.raises(InputError) as caught:
            data_set.load(domain, 0)
        message = str(caught.value)
        assert "\n" not in message
        for part in said:
            assert part in message
        assert torch.equal(torch.get_rng_state(), before)
        return message

    return load


@pytest.fixture
def fit_refuses(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs `fit` with arguments that must be refused, saying all of what is named."""

    def run(arguments: list[str], *said: str) -> str:
        before = tree()
        capsys.readouterr()
        assert exit_code(ppl_vae.fit, *OPTIONS, *arguments) == 2
        output = capsys.readouterr()
        # The notes on the data may have been printed before; the error is the last line.
        *notes, line = output.err.splitlines()
        assert line.startswith("error: ")
        assert not any(word in line for word in ("Union", "NestedArg", "NoneType", "class_path"))
        known = ("Digits: ", "Arrays: ", "ImageFolder: ", "preparing: ")
        assert all(note.startswith(known) for note in notes)
        assert output.out == ""
        for part in said:
            assert part in line, line
        assert tree() == before
        return line

    return run


@pytest.fixture
def arrays(tmp_path: Path) -> Callable[..., Arrays]:
    """Saves an array and gives the data set that reads it."""

    def save(array: np.ndarray, **options) -> Arrays:
        path = tmp_path / "images.npy"
        np.save(path, array)
        return Arrays(path=path, **options)

    return save


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Two small runs of the digits, which all tests of a process share."""
    from reports import train

    folder = tmp_path_factory.mktemp("runs")
    return [train(folder / "first"), train(folder / "second", guide=FullRankNormal, seed=1)]


@pytest.fixture
def exact_pair() -> tuple[ProbabilisticPCA, FullRankNormal, Tensor]:
    """Probabilistic PCA with a guide that has parameters and is the exact posterior."""
    spec = Spec((1, 3, 2), "real", 2)
    torch.manual_seed(0)
    model = ProbabilisticPCA(spec, initial_scale=0.7).double()
    return model, exact_guide(model), model(size=5).detach()


@pytest.fixture
def pair(exact_pair) -> tuple[ProbabilisticPCA, FullRankNormal, Tensor]:
    """The same pair, the guide no longer exact."""
    model, guide, x = exact_pair
    with torch.no_grad():
        guide.encoder.linear.bias += 0.3 * torch.randn(5)
    return model, guide, x
