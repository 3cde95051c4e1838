"""Which images the report looks at, and that all of it looks at the same."""

import torch
from oracles import refused
from reports import inspection_of

from ppl_vae.report.inspection import choose_images
from ppl_vae.runs.run import Run


def test_images_are_chosen(runs: list[Run]) -> None:
    run, data = runs[0], runs[0].data.test
    assert data.labels is not None

    def chosen(count: int = 5, **how) -> list[int]:
        return choose_images(run, data, count, **how).images.tolist()

    assert chosen(images=[7, 2]) == [7, 2]
    assert chosen(choose="first") == [0, 1, 2, 3, 4]
    assert chosen() == chosen() != chosen(seed=1)
    fours = chosen(label=4)
    assert len(fours) == 5
    assert (data.labels[fours] == 4).all()
    worst = chosen(choose="worst")
    assert set(worst) <= set(chosen(20))
    with refused(r"--label: expected one of 0, 1, .*; got -1"):
        chosen(label=-1)


def test_all_sections_look_at_one_draw_of_the_images(runs: list[Run]) -> None:
    data = runs[0].data.train
    selection = choose_images(runs[0], data, 6, choose="worst")
    assert selection.candidates == 24
    assert [len(part) for part in selection.batch] == [6]
    inspection = inspection_of(runs[0], 6, "train")
    assert torch.equal(inspection.batch()[0], inspection.batch()[0])
    assert torch.equal(inspection.batch(4)[0], inspection.batch()[0][:4])
    torch.manual_seed(1)
    assert not torch.equal(inspection.batch()[0], data[:6])
    (x,) = inspection.joint_of(runs[1]).batch
    assert torch.equal(x, inspection.batch()[0])


def test_a_selection_says_how_it_was_made(runs: list[Run]) -> None:
    run, data = runs[0], runs[0].data.test

    def said(first: int | None = None, **how) -> str:
        return choose_images(run, data, 5, **how).phrase(first)

    assert said() == "5 images"
    assert said(first=1) == "1 image"
    assert said(choose="worst") == "the 5 images with the largest k-hat of 20"
    assert said(choose="first", label=2) == "the first 5 images with label 2"
    assert said(images=[3, 4]) == "2 images chosen by index"
