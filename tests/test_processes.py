"""Processes that train together take the steps that one would take, and none is left alone."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from comparing import assert_same
from serving import Processes, steps_of, wait_for_steps
from torch import Tensor

from guides import DiagonalNormal
from models import VAE, Gaussian, Spec
from models.networks.mlp import MLP
from ppl_vae.machine.processes import Ranks, claims_message
from ppl_vae.objectives import ELBO
from ppl_vae.training.schedules import learning_rate_at

# One exchange gives what one process would compute

IMAGES, BATCH, EPOCHS, SEED = 23, 7, 2, 5

TRAINING = f"""
from pathlib import Path
import numpy as np
from guides import DiagonalNormal
from models import MLP, VAE, Gaussian, Spec
from ppl_vae.data import Data, Split
import ppl_vae.training.step
from ppl_vae.compiler.compiling import trace_programs
from ppl_vae.machine.processes import join
from ppl_vae.training.engine import compile_steps
from ppl_vae.objectives import ELBO
from ppl_vae.runs.settings import Settings
from ppl_vae.training.step import SVIStep
from ppl_vae.training.loop import Training

ranks = join("cpu")
folder = Path(FOLDER)
split = Split(torch.from_numpy(np.load(folder / "x.npy")), None, lambda x: x + torch.rand_like(x))
data = Data(
    train=split, validation=split, test=split, name="x", domain="real", image_shape=(1, 2, 3),
    levels=None, binarize="none", dequantize="none", class_names=None, note="",
)
spec = Spec((1, 2, 3), "real", 2)
torch.manual_seed(0)
model = VAE(spec, likelihood=Gaussian(spec), network=lambda a, b: MLP(a, b, (4,))).double()
guide = DiagonalNormal(spec, network=lambda a, b: MLP(a, b, (4,))).double()
training = Training(
    SVIStep(model, guide, ELBO(), clip_norm=CLIP, ranks=ranks), data, {{}}, Settings(
        latent_dim=2, epochs={EPOCHS}, batch_size={BATCH}, learning_rate=0.1, warmup_epochs=None,
        patience=None, seed={SEED}, device="cpu", checkpoint_seconds=1000.0))
if COMPILED:  # the graph itself, which inductor would take seconds for
    ppl_vae.training.step.compile_programs = lambda *given: trace_programs(*given[:3])
    compile_steps(training)
    assert training.step.compiled
training.run(folder)
state = {{name: value.detach().numpy() for name, value in training.step.parameters.items()}}
np.savez(folder / f"{{ranks.rank}}.npz", loss=training.rows[-1]["loss_nats_per_datum"], **state)
"""


def by_hand(x: Tensor, size: int, clip_norm: float | None) -> tuple[dict[str, Tensor], float]:
    """The same steps in one process: each share by itself, under its own noise."""
    spec = Spec((1, 2, 3), "real", 2)
    torch.manual_seed(0)
    model = VAE(spec, likelihood=Gaussian(spec), network=lambda a, b: MLP(a, b, (4,))).double()
    guide = DiagonalNormal(spec, network=lambda a, b: MLP(a, b, (4,))).double()
    pair = torch.nn.ModuleDict({"model": model, "guide": guide})
    optimizer = torch.optim.Adam(pair.parameters())
    step, steps = 0, -(-IMAGES // BATCH)
    for epoch in range(EPOCHS):
        key = np.random.SeedSequence((SEED, epoch)).generate_state(1, np.uint64)[0]
        order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(int(key)))
        loss_sum = 0.0
        for index in order.split(BATCH):
            optimizer.zero_grad()
            for rank, share in enumerate(index.tensor_split(size)):
                sequence = np.random.SeedSequence(SEED, spawn_key=(rank, step))
                torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))
                if len(share):
                    images = x[share] + torch.rand_like(x[share])
                    total = ELBO().loss(model, guide, images) * len(share)
                    (total / len(index)).backward()
                    loss_sum += total.item()
            if clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(pair.parameters(), clip_norm)
            rate = learning_rate_at(step, 0.1, round(min(1, EPOCHS / 10) * steps), EPOCHS * steps)
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
            step += 1
    return dict(pair.named_parameters()), loss_sum / IMAGES


@pytest.mark.parametrize(
    ("size", "compiled", "clip_norm"),
    [(2, False, None), (3, False, None), (2, True, None), (3, False, 1.0), (2, True, 1.0)],
)
def test_together_they_take_the_steps_of_one(
    processes: Processes, tmp_path: Path, size: int, compiled: bool, clip_norm: float | None
) -> None:
    """Unequal shares, and of the last batch of two images nothing for a third process."""
    x = torch.randn(IMAGES, 1, 2, 3, dtype=torch.float64)
    np.save(tmp_path / "x.npy", x.numpy())
    program = TRAINING.replace("FOLDER", repr(str(tmp_path))).replace("COMPILED", str(compiled))
    program = program.replace("CLIP", str(clip_norm))
    assert processes.run(size, program) == [0] * size, processes.said()
    expected, loss = by_hand(x, size, clip_norm)
    first = np.load(tmp_path / "0.npz")
    for rank in range(size):
        with np.load(tmp_path / f"{rank}.npz") as got:
            assert set(got.files) == {"loss", *expected}
            for name, value in expected.items():
                np.testing.assert_allclose(
                    got[name], value.detach().numpy(), rtol=1e-10, atol=1e-10
                )
                assert (got[name] == first[name]).all()
            np.testing.assert_allclose(got["loss"], loss, rtol=1e-10)
    first.close()


APART = """
import json
import torch
from torch import nn
from ppl_vae.machine.processes import join

ranks = join("cpu")
first = ranks.rank == 0
parameters = {name: nn.Parameter(torch.zeros(2, dtype=torch.float64)) for name in "abcd"}
parameters["d"].requires_grad_(False)
given = torch.tensor([1.0, 2.0], dtype=torch.float64)
gradients = {"a": given if first else None, "b": None if first else 3 * given, "c": None, "d": None}
loss, mean = ranks.mean(given[ranks.rank], gradients, parameters, [0.25, 0.75][ranks.rank])
print(json.dumps([loss.item(), {n: g if g is None else g.tolist() for n, g in mean.items()}]))
"""


def test_a_gradient_that_one_share_alone_has(processes: Processes) -> None:
    """Of two parameters of one size, each in another process; the third is in none."""
    assert processes.run(2, APART) == [0, 0], processes.said()
    expected = [1.75, {"a": [0.25, 0.5], "b": [2.25, 4.5], "c": None, "d": None}]
    assert [json.loads(line) for line in processes.said("out").splitlines()] == 2 * [expected]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_shares_are_the_batch(size: int, count: int) -> None:
    ranks = [Ranks(rank, size) for rank in range(size)]
    batch = torch.arange(count)
    assert sum(each.weight(count) for each in ranks) == pytest.approx(1, abs=1e-12)
    parts = [each.share(batch) for each in ranks if each.weight(count) > 0]
    assert torch.equal(torch.cat(parts), batch)
    assert all(
        len(each.share(batch)) == max(1, round(each.weight(count) * count)) for each in ranks
    )


def test_one_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    alone, loss, asked = Ranks(), torch.tensor(2.0), lambda: True
    before = torch.get_rng_state()
    alone.seed_step(0, 3)
    assert torch.equal(torch.get_rng_state(), before)
    assert alone.agreed(asked) is asked
    assert alone.mean(loss, {"a": loss, "b": None}, {}, 1.0) == (loss, {"a": loss, "b": None})
    assert alone.text_of_first(lambda: "x") == "x"
    assert claims_message("x")
    monkeypatch.setenv("RANK", "1")
    assert not claims_message("x")


# Whole runs


def command(*options: str, epochs: int = 12) -> list[str]:
    network = ["--network.hidden", "[8]", "--latent_dim", "2", "--batch_size", "101"]
    often = ["--checkpoint_seconds", "0.02", "--device", "cpu"]
    return [*network, *often, "--epochs", str(epochs), *options]


@pytest.fixture(scope="module")
def whole(processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes that nothing stopped."""
    path = tmp_path_factory.mktemp("whole") / "run"
    assert processes.run(2, command("--run", str(path))) == [0, 0], processes.said()
    assert processes.said("out").count("ELBO") == 2  # one table: its title and its row
    assert processes.said().count("Digits: binary data") == 1
    return path


@pytest.mark.parametrize("killed", [0, 1])
def test_a_lost_process_ends_the_run_with_a_checkpoint(
    processes: Processes, tmp_path: Path, killed: int
) -> None:
    path = tmp_path / "run"
    children = processes.start(2, command("--run", str(path), epochs=400))
    wait_for_steps(path)
    os.kill(children[killed], signal.SIGKILL)
    codes = processes.end()
    assert codes[killed] == -signal.SIGKILL
    assert codes[1 - killed] == 2
    lines = [line for line in processes.said().splitlines() if "error: " in line]
    assert lines == [
        "error: another process of this run was lost; go on from the last checkpoint with "
        "--resume, with any number of processes"
    ]
    assert "Traceback" not in processes.said()
    assert steps_of(path) > 0


OUT_OF_MEMORY = """
from ppl_vae.training.step import SVIStep

rank, calls, original = int(os.environ["RANK"]), [], SVIStep.__call__


def call(step, *arguments):
    calls.append(1)
    if rank == FAILS and len(calls) == 30:
        raise torch.OutOfMemoryError("Tried to allocate 20 GiB")
    return original(step, *arguments)


SVIStep.__call__ = call
ppl_vae.fit.main(ARGUMENTS)
"""


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_without_memory_says_so_and_no_other_speaks_of_a_loss(
    processes: Processes, tmp_path: Path, rank: int
) -> None:
    path = tmp_path / "run"
    arguments = repr(command("--run", str(path)))
    program = OUT_OF_MEMORY.replace("FAILS", str(rank)).replace("ARGUMENTS", arguments)
    assert processes.run(2, program) == [2, 2], processes.said()
    lines = [line for line in processes.said().splitlines() if "error: " in line]
    assert len(lines) == 1
    assert lines[0].startswith("error: out of memory (Tried to allocate 20 GiB); choose fewer")
    assert "Traceback" not in processes.said()
    assert 0 <= steps_of(path) < 30


@pytest.mark.parametrize("size", [2, 1])
def test_a_signal_stops_all_of_them_and_the_run_goes_on(
    processes: Processes, whole: Path, tmp_path: Path, size: int
) -> None:
    """Bit for bit on as many processes; on another number it ends as well."""
    path = tmp_path / "run"
    children = processes.start(2, command("--run", str(path)))
    wait_for_steps(path)
    os.kill(children[1], signal.SIGTERM)
    codes = processes.end()
    assert codes == [130, 130], processes.said()
    assert processes.said().count("stopped, with a checkpoint") == 1
    assert steps_of(path) < steps_of(whole)
    assert processes.run(size, ["--resume", str(path)]) == [0] * size, processes.said()
    assert steps_of(path) == steps_of(whole)
    if size == 2:
        assert_same(path, whole)


def test_bad_input_is_told_once(processes: Processes, whole: Path) -> None:
    before = (whole / "checkpoint.safetensors").read_bytes()
    for options, said in (
        (["--batch_size", "1"], "--batch_size: expected at least 2, an image for each process"),
        (["--latent_dm", "1"], "latent_dm"),
        (["--data", "Arrays", "--data.path", "none.npy"], "expected a file at none.npy"),
    ):
        assert processes.run(2, command(*options)) == [2, 2]
        assert said in processes.said()
        assert processes.said().count("error: ") == 1, processes.said()
    assert processes.run(2, command("--run", str(whole))) == [2, 2]
    assert processes.said().count("error: ") == 1
    assert processes.said().count("exists; go on with --resume") == 1
    assert (whole / "checkpoint.safetensors").read_bytes() == before
