"""The functions on a pair trained on MNIST: slow, and skipped where the data are not."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import direct_k_hat

from ppl_vae.data import MNIST
from ppl_vae.densities.joint import Joint
from ppl_vae.fit import fit
from ppl_vae.inference.gaps import gap_decomposition
from ppl_vae.inference.nuts import nuts_posterior
from ppl_vae.inference.pareto import pareto_k


@pytest.mark.slow
def test_a_pair_trained_on_mnist(data_root: Path, tmp_path: Path) -> None:
    run = fit(data=MNIST(root=data_root), latent_dim=10, epochs=2, run=tmp_path / "run")
    run.model.eval(), run.guide.eval()
    x = run.data.test[:20]
    began = time.monotonic()
    weights = Joint.of(run.model, run.guide, x).log_weights(1000)
    found = pareto_k(weights)
    assert time.monotonic() - began < 60
    expected = [direct_k_hat(column) for column in weights.numpy().T]
    np.testing.assert_allclose(found.k_hat, expected, rtol=1e-6)
    gaps = gap_decomposition(run.model, run.guide, x, particles=500)
    whole = gaps.log_likelihood - gaps.elbo
    torch.testing.assert_close(
        gaps.approximation_gap + gaps.amortization_gap, whole, rtol=0, atol=1e-9
    )
    assert gaps.converged.all()
    assert (gaps.amortization_gap > -4 * gaps.amortization_gap_standard_error).all()
    posterior = nuts_posterior(run.model, run.guide, x[:4], draws=100, warmup=100)
    assert posterior.latents["z"].shape == (4, 100, 4, 10)
    assert (posterior.r_hat["z"] < 1.2).all()
