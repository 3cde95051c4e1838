"""Encoding and decoding in pieces, at bounded memory."""

import pytest
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from guides import IAF, ConditionalNormal, DiagonalNormal, Guide, SemiSupervisedNormal
from models import (
    VAE,
    Bernoulli,
    Conditional,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Likelihood,
    SemiSupervised,
    Spec,
)
from ppl_vae.compiler.compiling import compiled_if_possible
from ppl_vae.data import Split
from ppl_vae.densities.joint import Joint
from ppl_vae.densities.weights import log_weights
from ppl_vae.errors import InputError
from ppl_vae.machine.memory import Allocations
from ppl_vae.measures import encoding
from ppl_vae.measures.encoding import (
    decoded_mean,
    independent_means,
    posterior_draws,
    posterior_mean,
    split_means,
)

SHAPE = (1, 8, 8)


def pair(likelihood: type[Likelihood], guide: type[Guide]) -> tuple[VAE, Guide]:
    spec = Spec(SHAPE, likelihood.domain, 3)
    return VAE(spec, likelihood=likelihood(spec)).eval(), guide(spec).eval()


@pytest.mark.parametrize("memory_bytes", [1, 100_000, 2**30])
def test_a_mean_is_that_of_each_image(memory_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, guide = pair(Bernoulli, DiagonalNormal)
    monkeypatch.setattr(encoding, "memory_bound", lambda device: memory_bytes)
    x, z = torch.rand(37, *SHAPE).round(), torch.randn(5, 7, 3)
    before = torch.get_rng_state()
    with torch.no_grad():
        torch.testing.assert_close(posterior_mean(model, guide, x), guide.posterior(x).mean)
        torch.testing.assert_close(
            decoded_mean(model, z), model.decode(z.flatten(0, 1)).mean.unflatten(0, (5, 7))
        )
        assert posterior_mean(model, guide, x[:1]).shape == (1, 3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("likelihood", "guide"), [(Bernoulli, DiagonalNormal), (DiscretizedLogistic, IAF)]
)
def test_a_compiled_mean_is_the_eager_one(
    likelihood: type[Likelihood],
    guide: type[Guide],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """Of closed forms, and of averages over the same draws; the last of the pieces is smaller."""
    model, built = pair(likelihood, guide)
    x, z = torch.rand(37, *SHAPE).round(), torch.randn(5, 7, 3)
    monkeypatch.setattr(encoding, "memory_bound", lambda device: 2**21)
    monkeypatch.setattr(encoding, "compiled_if_possible", compiled := Recorded())
    for mean, batch in ((decoded_mean, (model, z)), (posterior_mean, (model, built, x))):
        means = []
        for engine in ("eager", "compiled"):
            torch.manual_seed(1)
            means.append(mean(*batch, engine=engine))
        torch.testing.assert_close(*means, rtol=1e-4, atol=1e-5)
    assert len(compiled.sizes) == 2
    assert compiled.calls >= 2
    assert capsys.readouterr().err == ""


def test_a_single_latent_is_decoded() -> None:
    model, _ = pair(Bernoulli, DiagonalNormal)
    z = torch.randn(3)
    torch.testing.assert_close(decoded_mean(model, z), model.decode(z).mean)
    labelled = SemiSupervised(Spec(SHAPE, "binary", 3, 4)).eval()
    y = torch.tensor(2)
    torch.testing.assert_close(decoded_mean(labelled, z, y), labelled.decode(z, y).mean)


@pytest.mark.parametrize(
    ("domain", "x", "said"),
    [
        ("real", torch.rand(2, 6, 5, 3), r"shape \(B, 3, 6, 5\); got \(2, 6, 5, 3\); x.permute"),
        ("real", torch.rand(2, 3, 5, 6), r"shape \(B, 3, 6, 5\); got \(2, 3, 5, 6\)$"),
        ("real", torch.rand(3, 6, 5), r"shape \(B, 3, 6, 5\); got \(3, 6, 5\)$"),
        ("real", torch.rand(2, 90), r"shape \(B, 3, 6, 5\); got \(2, 90\)$"),
        ("real", torch.ones(2, 3, 6, 5, dtype=torch.int64), "torch.float32, .*; got torch.int64"),
        ("real", torch.rand(2, 3, 6, 5).double(), "images of torch.float32, .*; got torch.float64"),
        ("real", torch.rand(2, 3, 6, 5).numpy(), "expected images as a tensor; got ndarray"),
        ("real", torch.full((2, 3, 6, 5), torch.nan), "expected images without missing pixels"),
        ("real", torch.full((2, 3, 6, 5), torch.inf), "expected real images"),
        ("binary", torch.full((2, 3, 6, 5), 0.5), "expected binary images.* from 0.5 to 0.5;"),
        ("unit", torch.full((2, 3, 6, 5), 128.0), "expected unit images.* from 128 to 128;"),
        ("bytes", torch.full((2, 3, 6, 5), 0.5), "expected bytes images"),
        ("bytes", torch.full((2, 3, 6, 5), 256.0), "expected bytes images"),
    ],
)
def test_images_of_another_shape_type_or_domain_are_refused(domain, x: Tensor, said: str) -> None:
    spec = Spec((3, 6, 5), domain, 3)
    likelihood = {"unit": ContinuousBernoulli, "bytes": DiscretizedLogistic}.get(domain)
    model = VAE(spec, likelihood=likelihood and likelihood(spec)).eval()
    guide = DiagonalNormal(spec).eval()
    for refused in (
        lambda: posterior_mean(model, guide, x),
        lambda: log_weights(model, guide, x, 2),
        lambda: Joint.of(model, guide, x),
    ):
        with pytest.raises(ValueError, match=said) as caught:
            refused()
        assert "\n" not in str(caught.value)
    if "permute" in said:
        x = x.permute(0, 3, 1, 2)
        torch.testing.assert_close(posterior_mean(model, guide, x), guide.posterior(x).mean)


def test_latents_of_another_dimension_are_refused() -> None:
    model, _ = pair(Bernoulli, DiagonalNormal)
    with pytest.raises(ValueError, match=r"of shape \(\.\.\., 3\); got \(1, 6\)"):
        decoded_mean(model, torch.randn(1, 6))
    with pytest.raises(ValueError, match=r"latents of torch.float32, .*; got torch.int64"):
        decoded_mean(model, torch.ones(1, 3, dtype=torch.int64))


@pytest.mark.parametrize(
    ("y", "said"),
    [
        ([0, 99], "labels of 0 to 3, or -1 where there is none; got 0 to 99"),
        ([-2, 0], "labels of 0 to 3, or -1 where there is none; got -2 to 0"),
        ([0.0, 1.0], "labels of torch.int64; got torch.float32"),
    ],
)
def test_labels_that_are_none_of_the_classes_are_refused(y: list, said: str) -> None:
    spec = Spec(SHAPE, "binary", 3, 4)
    model, guide = Conditional(spec).eval(), ConditionalNormal(spec).eval()
    x, labels = torch.rand(2, *SHAPE).round(), torch.tensor(y)
    for refused in (
        lambda: posterior_mean(model, guide, x, labels),
        lambda: decoded_mean(model, torch.randn(2, 3), labels),
        lambda: log_weights(model, guide, x, 2, labels),
        lambda: Joint.of(model, guide, (x, labels)),
    ):
        with pytest.raises(ValueError, match=said) as caught:
            refused()
        assert "\n" not in str(caught.value)


def test_an_unknown_engine_is_refused() -> None:
    model, guide = pair(Bernoulli, DiagonalNormal)
    for mean in (
        lambda: decoded_mean(model, torch.randn(2, 3), engine="fast"),  # type: ignore[arg-type]
        lambda: posterior_mean(model, guide, torch.ones(2, *SHAPE), engine="fast"),  # type: ignore[arg-type]
    ):
        with pytest.raises(InputError, match="expected one of auto, eager, compiled; got 'fast'"):
            mean()


class Recorded:
    """Compiles, and counts the calls of what that gives."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.calls = 0

    def __call__(self, what, modules, batch):
        self.sizes.append(len(batch[0]))
        (function,) = compiled_if_possible(what, modules, batch)

        def count(*rows: Tensor) -> Tensor:
            self.calls += 1
            return function(*rows)

        return [count]


@pytest.mark.parametrize("labelled", [False, True])
def test_the_means_of_a_split_are_those_of_its_images(
    labelled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = Spec(SHAPE, "binary", 3, 4)
    model = (SemiSupervised if labelled else VAE)(spec).eval()
    guide = (SemiSupervisedNormal if labelled else DiagonalNormal)(spec).eval()
    x = torch.rand(23, *SHAPE).round()
    images = Split(x, torch.arange(23) % 4, lambda raw: raw)
    y = guide.classify(x).logits.argmax(-1) if labelled else None
    expected = posterior_mean(model, guide, x, y)
    monkeypatch.setattr(encoding, "_BATCH", 10)
    monkeypatch.setattr(encoding, "compiled_if_possible", compiled := Recorded())
    torch.testing.assert_close(split_means(model, guide, images), expected)
    assert compiled.calls == 0
    monkeypatch.setattr(encoding, "_WORTH_COMPILING", 23)
    torch.testing.assert_close(split_means(model, guide, images), expected)
    assert compiled.calls == 2
    assert compiled.sizes == [10]


def test_means_that_are_known_come_once() -> None:
    model, guide = pair(Bernoulli, DiagonalNormal)
    images = Split(torch.rand(23, *SHAPE).round(), None, lambda raw: raw)
    means = split_means(model, guide, images, independent=True)
    assert means.shape == (23, 1, 3)
    assert torch.equal(means, independent_means(model, guide, images[:]))
    torch.testing.assert_close(means[:, 0], split_means(model, guide, images))


def test_means_of_draws_are_two_and_independent() -> None:
    """As wide about the mean as so many draws say, and without correlation."""
    model, guide = pair(Bernoulli, IAF)
    images = Split(torch.rand(1, *SHAPE).round().expand(2500, *SHAPE), None, lambda raw: raw)
    torch.manual_seed(0)
    means = split_means(model, guide, images, independent=True)
    assert means.shape == (2500, 2, 3)
    z = posterior_draws(model, guide, 100_000, images[:1])[:, 0].double()
    draws = 40  # 2,000 / sqrt(2,500)
    error = z.std(0) / draws**0.5
    centre = (means.double().mean(0) - z.mean(0)) / error * 2500**0.5  # standard normal
    assert centre.abs().max() < 4
    apart = (means.double() - z.mean(0)) / error
    assert (apart.square().mean(0) - 1).abs().max() < 4 * (2 / 2500) ** 0.5
    assert apart.prod(1).mean(0).abs().max() < 4 / 2500**0.5


class ByData(DiagonalNormal):
    """A branch on the data, which no graph has."""

    def posterior(self, x: Tensor) -> TorchDistribution:
        return super().posterior(-x if x.mean() > 0.9 else x)


def test_what_cannot_be_compiled_is_encoded_by_its_networks(capsys: pytest.CaptureFixture) -> None:
    model, guide = pair(Bernoulli, ByData)
    x = torch.rand(9, *SHAPE).round()
    got = posterior_mean(model, guide, x, engine="compiled")
    torch.testing.assert_close(got, guide.posterior(x).mean)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "engine: encoding is eager, because the pair cannot be traced: a branch in"
    )


class Largest(Allocations):
    """The bytes of the largest tensor."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.total = max(self.total, result.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("guide", [DiagonalNormal, IAF])
def test_memory_is_bounded_where_means_are_averages_over_draws(
    guide: type[Guide], monkeypatch: pytest.MonkeyPatch
) -> None:
    """256 draws of each pixel, or of each z."""
    bound = 2**21
    monkeypatch.setattr(encoding, "memory_bound", lambda device: bound)
    model, built = pair(DiscretizedLogistic, guide)
    with torch.no_grad(), Largest() as largest:
        x = decoded_mean(model, torch.randn(100, 3))
        assert posterior_mean(model, built, x.round()).shape == (100, 3)
    assert x.shape == (100, *SHAPE)
    assert largest.total < bound
    assert bound < 256 * 4 * 64 * 100


def test_what_operations_with_several_results_allocate_counts() -> None:
    x = torch.randn(100, 50)
    with torch.no_grad(), Allocations() as allocations:
        torch.nn.functional.layer_norm(x, (50,))
    assert allocations.total == 4 * (100 * 50 + 2 * 100)  # with means and deviations
