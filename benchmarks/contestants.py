"""One training step of the VAE of Kingma and Welling (2014), as others write it.

784-500-20-500-784, tanh, Bernoulli, Adam, the estimator of `Trace_ELBO`: each function here returns
a function that does so many steps. In each a batch is chosen from grey images (N, 1, 28, 28), by
the same indices (B,), and binarised.
"""

import os
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import pyro
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from guides import DiagonalNormal, Guide
from models import VAE, Model, Spec
from ppl_vae.data import Split
from ppl_vae.runs.settings import Precision

__all__ = [
    "Steps",
    "bare_products",
    "hand_written",
    "numpyro_epochs",
    "numpyro_scan",
    "pair",
    "product_operations",
    "stock_pyro",
    "wait",
]

Steps = Callable[[int], object]

HIDDEN, LATENT, PIXELS = 500, 20, 784
_LAYERS = [(PIXELS, HIDDEN), (HIDDEN, 2 * LATENT), (LATENT, HIDDEN), (HIDDEN, PIXELS)]


def pair(device: torch.device) -> tuple[Model, Guide]:
    """The project's pair."""
    spec = Spec((1, 28, 28), "binary", LATENT)
    return VAE(spec).to(device), DiagonalNormal(spec).to(device)


def wait(device: torch.device) -> None:
    """Waits until a GPU is idle."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _binarised(grey: Tensor) -> Tensor:
    """Like `torch.bernoulli`, which is slower on a CPU."""
    return (torch.rand_like(grey) < grey).float()


def stock_pyro(grey: Tensor, index: Tensor) -> Steps:
    """`pyro.infer.SVI.step` on the same pair."""
    svi = SVI(*pair(grey.device), pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())

    def run(steps: int) -> None:
        for _ in range(steps):
            svi.step(_binarised(grey[index]))

    return run


class _HandWritten(nn.Module):
    """The negative ELBO in as few lines of PyTorch as it takes."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.posterior = nn.Linear(PIXELS, HIDDEN), nn.Linear(HIDDEN, 2 * LATENT)
        self.decoder = nn.Sequential(
            nn.Linear(LATENT, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, PIXELS)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        loc, log_variance = self.posterior(self.hidden(x).tanh()).float().chunk(2, 1)
        noise = torch.randn_like(loc)
        z = loc + (log_variance / 2).exp() * noise
        logits = self.decoder(z).float()
        rate = (z**2 - noise**2 - log_variance).sum() / 2
        return (binary_cross_entropy_with_logits(logits, x, reduction="sum") + rate) / len(x)


def hand_written(
    grey: Tensor, index: Tensor, precision: torch.dtype | None, mode: str = "default"
) -> Steps:
    """`torch.compile` of a loss written by hand, autocast where asked, and fused Adam."""
    module = _HandWritten().to(grey.device)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3, fused=True)
    compiled = torch.compile(module, mode=mode, dynamic=False)

    def run(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            x = _binarised(grey[index])
            with torch.autocast(x.device.type, precision, enabled=precision is not None):
                loss = compiled(x)
            loss.backward()
            optimizer.step()

    return run


def bare_products(index: Tensor, precision: torch.dtype | None) -> Steps:
    """The eleven matrix products of a step, and nothing else."""
    count, options = len(index), {"dtype": precision or torch.float32, "device": index.device}
    layers = [
        [torch.randn(shape, **options) for shape in ((count, a), (b, a), (count, b))]
        for a, b in _LAYERS
    ]

    def products() -> None:
        for layer, (inputs, weight, gradient) in enumerate(layers):
            inputs @ weight.t()
            gradient.t() @ inputs
            if layer:
                gradient @ weight

    once = _captured(products) if index.is_cuda else products

    def run(steps: int) -> None:
        for _ in range(steps):
            once()

    return run


def _captured(function: Callable[[], None]) -> Callable[[], None]:
    """The same as one CUDA graph, so that what is timed is not its launches."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


def product_operations(batch_size: int) -> int:
    """Multiplications and additions in these products."""
    passes = [2, 3, 3, 3]  # the first layer's input needs no gradient
    return sum(2 * n * batch_size * a * b for n, (a, b) in zip(passes, _LAYERS, strict=True))


def numpyro_scan(grey: Tensor, index: Tensor, precision: Precision = "float32") -> Steps | None:
    """NumPyro's `SVI.update` in a jitted `lax.scan`, or None where there is no NumPyro for them.

    NumPyro has no mixed precision: in bfloat16 its products are cast by hand.
    """
    if find_spec("numpyro") is None:
        return None
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # or it takes most of a GPU
    import jax
    import jax.numpy as jnp

    if grey.is_cuda and jax.default_backend() != "gpu":
        return None
    # On a GPU it would multiply float32 with ten bits of mantissa, which torch does not unasked.
    rounded = precision == "tensorfloat32"
    jax.config.update("jax_default_matmul_precision", "tensorfloat32" if rounded else "highest")
    svi = _numpyro_svi(precision == "bfloat16")
    images, chosen = jnp.asarray(grey.flatten(1).cpu().numpy()), jnp.asarray(index.cpu().numpy())
    key = jax.random.PRNGKey(0)
    state = svi.init(key, images[chosen])

    @jax.jit
    def scan(state: Any, images: Any, chosen: Any, keys: Any) -> Any:
        def step(state: Any, batch: Any) -> Any:
            chosen, key = batch
            x = jax.random.bernoulli(key, images[chosen]).astype(jnp.float32)
            return svi.update(state, x)

        # Indices of each step, or it would choose the images once for all.
        each = jnp.broadcast_to(chosen, (len(keys), len(chosen)))
        return jax.lax.scan(step, state, (each, keys))

    def run(steps: int) -> None:
        nonlocal state, key
        key, now = jax.random.split(key)
        state, losses = scan(state, images, chosen, jax.random.split(now, steps))
        losses.block_until_ready()

    return run


def numpyro_epochs(
    train: Split, test: Split, batch_size: int = 128
) -> Iterator[tuple[float, float]] | None:
    """Epochs of NumPyro's VAE example, a scan each: the seconds of each, and the test ELBO after.

    What comes first is of compiling: its seconds, and no ELBO. None where NumPyro is not installed.
    """
    return None if find_spec("numpyro") is None else _epochs(train, test, batch_size)


def _epochs(train: Split, test: Split, batch_size: int) -> Iterator[tuple[float, float]]:
    import jax
    import jax.numpy as jnp

    svi = _numpyro_svi()
    levels = train.raw.float() / 255 if isinstance(train.raw, Tensor) else train[:]
    grey = jnp.asarray(levels.flatten(1).numpy())
    held_out = jnp.asarray(test[:].flatten(1).numpy())
    state = svi.init(jax.random.PRNGKey(0), held_out[:batch_size])

    @jax.jit
    def epoch(state: Any, key: Any, grey: Any) -> Any:
        order = jax.random.permutation(key, len(grey))[: len(grey) // batch_size * batch_size]

        def step(state: Any, batch: Any) -> Any:
            index, key = batch
            images = jax.random.bernoulli(key, grey[index]).astype(jnp.float32)
            return svi.update(state, images)

        indices = order.reshape(-1, batch_size)
        return jax.lax.scan(step, state, (indices, jax.random.split(key, len(indices))))[0]

    evaluate = jax.jit(svi.evaluate)
    began = time.perf_counter()
    epoch = epoch.lower(state, jax.random.PRNGKey(1), grey).compile()
    yield time.perf_counter() - began, float("nan")
    number = 1
    while True:
        began = time.perf_counter()
        state = jax.block_until_ready(epoch(state, jax.random.PRNGKey(number), grey))
        took = time.perf_counter() - began
        yield took, -float(evaluate(state, held_out)) / len(held_out)
        number += 1


def _numpyro_svi(bfloat16: bool = False) -> Any:
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    shapes = {
        "encoder1": (PIXELS, HIDDEN),
        "encoder2": (HIDDEN, 2 * LATENT),
        "decoder1": (LATENT, HIDDEN),
        "decoder2": (HIDDEN, PIXELS),
    }

    def linear(name: str, inputs: Any) -> Any:
        key = jax.random.PRNGKey(sum(map(ord, name)))
        initial = jax.random.normal(key, shapes[name]) / shapes[name][0] ** 0.5
        weight = numpyro.param(f"{name}.weight", initial)
        bias = numpyro.param(f"{name}.bias", jnp.zeros(shapes[name][1]))
        if bfloat16:
            product = inputs.astype(jnp.bfloat16) @ weight.astype(jnp.bfloat16)
            return product.astype(jnp.float32) + bias
        return inputs @ weight + bias

    def model(x: Any) -> None:
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(LATENT), 1).to_event(1))
            logits = linear("decoder2", jnp.tanh(linear("decoder1", z)))
            numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x: Any) -> None:
        hidden = jnp.tanh(linear("encoder1", x))
        loc, log_variance = jnp.split(linear("encoder2", hidden), 2, axis=1)
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", dist.Normal(loc, jnp.exp(log_variance / 2)).to_event(1))

    return numpyro.infer.SVI(
        model, guide, numpyro.optim.Adam(1e-3), loss=numpyro.infer.Trace_ELBO()
    )
