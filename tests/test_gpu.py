"""The same on a GPU: training, resume, and reading the run elsewhere."""

from functools import partial
from pathlib import Path

import pytest
import torch

import ppl_vae
from models import MLP, Convolutional
from ppl_vae.evaluate import evaluate
from ppl_vae.fit import fit, resume

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("engine", ["eager", "compiled"])
@pytest.mark.parametrize(
    "network", [partial(MLP, hidden=(16,)), partial(Convolutional, channels=(4,), hidden=8)]
)
def test_a_run_on_a_gpu(tmp_path: Path, engine: str, network) -> None:
    options = {"network": network, "latent_dim": 2, "epochs": 2, "device": "cuda"}
    runs = [fit(run=tmp_path / name, engine=engine, **options) for name in ("a", "b")]
    metrics = [(run.path / "metrics.csv").read_bytes() for run in runs]
    assert metrics[0] == metrics[1]
    assert next(runs[0].model.parameters()).is_cuda
    resume(runs[0].path)
    assert (runs[0].path / "metrics.csv").read_bytes() == metrics[0]
    here, there = (ppl_vae.load(runs[0].path, device=device) for device in ("cpu", "cuda"))
    for a, b in zip(here.model.parameters(), there.model.parameters(), strict=True):
        assert torch.equal(a, b.cpu())
    results = [evaluate(run, particles=200) for run in (here, there)]
    name = "log_likelihood_nats_per_datum"
    # The same images, other draws: 300 images of 200 draws, and float32.
    assert abs(results[0][name] - results[1][name]) < 0.1
