"""Batches that a compiled function draws."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from comparing import assert_equal
from tiny_runs import metrics, tiny
from torch import Tensor

from ppl_vae.compiler.comparison import NotCompilable
from ppl_vae.data import Split
from ppl_vae.data.conversion import (
    _in_turn,
    _scaled,
    _stretched,
    bernoulli_draw,
    dequantised,
    perturbed,
    standardised,
)
from ppl_vae.training import drawing
from ppl_vae.training.drawing import compile_draw

INDEX = torch.tensor([7, 0, 39, 3, 3])
Prepare = Callable[[Tensor], Tensor]


def images(prepare: Prepare, floating: bool = False, labels: bool = True) -> Split:
    generator = torch.Generator().manual_seed(0)
    raw = torch.randint(0, 17, (40, 1, 5, 4), dtype=torch.uint8, generator=generator)
    if floating:
        raw = raw / 16
        raw[:, 0, 0, 0] = torch.nan
    y = torch.randint(-1, 10, (40,), generator=generator)
    return Split(raw, y if labels else None, prepare)


def drawn(draw: Callable[..., Any], index: Tensor, *rest: bool) -> tuple[Tensor, ...]:
    """A batch, and the next random number after it."""
    torch.manual_seed(4)
    return (*draw(index, *rest), torch.rand(1))


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize(
    ("prepare", "floating"),
    [
        (partial(bernoulli_draw, top=16), False),
        (partial(bernoulli_draw, top=1), True),
        (partial(dequantised, levels=17), False),
        (partial(_scaled, top=16), False),
        (partial(_stretched, top=16), False),
        (partial(standardised, mean=0.3, deviation=0.7), True),
        (partial(standardised, mean=(0.1, 0.2, 0.3, 0.4), deviation=(1.0, 2.0, 3.0, 4.0)), True),
        (
            partial(
                _in_turn,
                first=partial(perturbed, levels=17, rate=0.5),
                then=partial(bernoulli_draw, top=16),
            ),
            False,
        ),
    ],
)
def test_a_compiled_draw_is_the_draw(prepare: Prepare, floating: bool, labelled: bool) -> None:
    """Images, labels, and the random numbers that are left: to the bit on a CPU."""
    split = images(prepare, floating)
    draw = compile_draw(split, torch.arange(5), labelled)
    for index in (INDEX, INDEX.flip(0), torch.arange(40)[20:25], INDEX[:3]):
        expected, got = drawn(split.batch, index, labelled), drawn(draw, index)
        for one, other in zip(expected, got, strict=True):
            assert one.dtype == other.dtype
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_labels_that_are_not_known() -> None:
    draw = compile_draw(images(partial(_scaled, top=16), labels=False), INDEX, labelled=True)
    assert draw(INDEX)[1].tolist() == 5 * [-1]


def test_compiling_draws_no_random_number() -> None:
    torch.manual_seed(9)
    before = torch.get_rng_state()
    compile_draw(images(partial(dequantised, levels=17)), INDEX, labelled=False)
    assert torch.equal(torch.get_rng_state(), before)


def off_by_one(graph: Any, examples: list[Tensor]) -> Callable[..., Any]:
    return lambda index, *stored: graph((index + 1) % 40, *stored)


def of_the_first(graph: Any, examples: list[Tensor]) -> Callable[..., Any]:
    return lambda index, *stored: graph(examples[0], *stored)


@pytest.mark.parametrize("wrong", [off_by_one, of_the_first])
def test_another_function_is_refused(monkeypatch: pytest.MonkeyPatch, wrong: Any) -> None:
    monkeypatch.setattr(drawing, "compile_graph", wrong)
    with pytest.raises(NotCompilable, match="gives other images once compiled"):
        compile_draw(images(partial(_scaled, top=16)), INDEX, labelled=False)


def by_its_mean(raw: Tensor) -> Tensor:
    return raw.float() if raw.float().mean() > 3 else raw.float() / 2


@pytest.mark.usefixtures("no_pictures", "traced_steps")
def test_a_run_whose_images_cannot_be_drawn_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It goes on with the same images, and says why."""
    plain = tiny(tmp_path / "plain", engine="compiled")
    assert "chosen eagerly" not in capsys.readouterr().err
    monkeypatch.setattr(
        "ppl_vae.training.engine.compile_draw",
        lambda split, *rest: compile_draw(replace(split, prepare=by_its_mean), *rest),
    )
    other = tiny(tmp_path / "other", engine="compiled")
    assert (
        "engine: images are chosen eagerly, because their choice cannot be traced: a branch in "
        "Python depends on the data; use torch.where"
    ) in capsys.readouterr().err
    assert other.summary["engine"] == "compiled"
    assert metrics(other.path) == metrics(plain.path)
    assert_equal(other.model.state_dict(), plain.model.state_dict())
