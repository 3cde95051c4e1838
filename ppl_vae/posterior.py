"""Inspect the inference of a run: `python -m ppl_vae.posterior RUN [RUN2 ...]`."""

import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import torch

from ppl_vae.command_line.parser import Parser
from ppl_vae.command_line.verbs import add_run, parse_with_run, pop_runs, run_verb
from ppl_vae.errors import InputError
from ppl_vae.inference.datatree import to_datatree
from ppl_vae.inference.netcdf import needs_arviz, write_datatree
from ppl_vae.machine.devices import check_seed
from ppl_vae.machine.files import whole_file
from ppl_vae.machine.progress import Progress, table
from ppl_vae.machine.randomness import seeded
from ppl_vae.report.calibrated import BINS, calibrated
from ppl_vae.report.comparison import comparison
from ppl_vae.report.gap import gap
from ppl_vae.report.guide_quality import guide_quality
from ppl_vae.report.inspection import Choose, Effort, Inspection, choose_images
from ppl_vae.report.intervals import intervals
from ppl_vae.report.latent import latent
from ppl_vae.report.page import page
from ppl_vae.report.section import Section, Unanswered
from ppl_vae.report.true_posterior import true_posterior
from ppl_vae.runs.directory import write_json
from ppl_vae.runs.run import Run

__all__ = ["POSTERIOR", "REPORT", "main", "posterior"]

POSTERIOR = "posterior.nc"
REPORT = "posterior.html"
NUMBERS = "posterior.json"

_CHAINS = 4


def posterior(
    run: Run,
    others: list[Run] | None = None,
    split: Literal["train", "validation", "test"] = "test",
    count: int = 500,
    choose: Choose = "random",
    images: list[int] | None = None,
    label: int | None = None,
    draws: int = 1000,
    predictive_draws: int = 100,
    particles: int = 5000,
    gap_images: int = 32,
    gap_steps: int = 2000,
    shown: int = 4,
    nuts_draws: int = 400,
    temperatures: int = 400,
    simulations: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Answers what a trained pair's inference is worth, in RUN/posterior.nc, .html and .json.

    Args:
        run: A trained run.
        others: Further runs, to compare with it on the same images.
        split: Where the images are from.
        count: How many images.
        choose: Which: `random` ones, the `first`, or the `worst` by k-hat among four times as many.
        images: Which, by index, instead.
        label: Only images with this label.
        draws: Of z for each image, in four chains of equal length.
        predictive_draws: Of x for each image, at most; fewer where they would take too much memory.
        particles: The largest K of the curve of importance-weighted bounds.
        gap_images: Images whose gap is split.
        gap_steps: Steps at most that fit the guide's family to an image.
        shown: Images whose true posterior is sampled with NUTS, and whose log p(x) gets intervals.
        nuts_draws: Of each of its four chains.
        temperatures: Of annealed importance sampling.
        simulations: Images drawn from the model for simulation-based calibration.
        seed: What all draws follow from.

    Returns:
        What `posterior.json` says.

    Raises:
        InputError: If something given is wrong, or the guide has no density; nothing is written.
        OSError: If the files cannot be written.
    """
    check_seed(seed)
    _check_once([run, *(others or [])])
    effort = Effort(particles, gap_images, gap_steps, shown, nuts_draws, temperatures, simulations)
    _check(draws=(draws, 100), predictive_draws=(predictive_draws, 1), **_least(effort))
    if draws % _CHAINS:
        raise InputError(f"--draws: expected a multiple of {_CHAINS}; got {draws}")
    if not getattr(run.guide, "has_density", True):
        raise InputError(
            f"{run.path}: {type(run.guide).__name__} has no density q(z|x), so that nothing can be "
            "said about it as a posterior; train a run with another guide"
        )
    needs_arviz()
    data = getattr(run.data, split)
    began = time.monotonic()
    chosen = choose_images(run, data, count, images, label, choose, seed)
    inspection = _inspect(run, others or [], split, chosen, draws, predictive_draws, effort, seed)
    write_datatree(inspection.tree, run.path / POSTERIOR)
    sections = [_answer(place, inspection) for place in range(len(_QUESTIONS))]
    result = {
        "run": str(run.path),
        "others": [str(other.path) for other in inspection.others],
        "data": run.data.name,
        "split": split,
        "reference_measure": run.data.reference_measure,
        "images": chosen.tolist(),
        "draws": draws,
        **{
            section.name: _plain(
                section.numbers | {"unanswered": section.unanswered, "seconds": section.seconds}
            )
            for section in sections
        },
        "seconds": time.monotonic() - began,
        "seed": seed,
        "device": str(run.device),
    }
    facts = [
        f"{type(run.model).__name__} with guide {type(run.guide).__name__}, {run.data.note}",
        f"{len(chosen):,} images of the {split} split, {draws:,} draws of z for each; seed {seed}; "
        f"{result['seconds']:.0f} seconds",
    ]
    with whole_file(run.path / REPORT) as file:
        file.write(page(f"Inference of {run.path}", facts, sections).encode())
    write_json(run.path / NUMBERS, result)
    return result


def _inspect(
    run: Run,
    others: list[Run],
    split: str,
    chosen: torch.Tensor,
    draws: int,
    predictive_draws: int,
    effort: Effort,
    seed: int,
) -> Inspection:
    """Draws z and x for the images, which all sections share."""
    data = getattr(run.data, split)
    labels = None if data.labels is None else data.labels[chosen].tolist()
    progress = Progress(f"drawing for {run.path}", draws * len(chosen), "draws")
    with progress, seeded(run.device, seed):
        tree = to_datatree(
            run.model,
            run.guide,
            data.batch(chosen, run.model.labelled),
            draws=draws // _CHAINS,
            chains=_CHAINS,
            predictive_draws=max(1, predictive_draws // _CHAINS),
            images=chosen.tolist(),
            labels=labels,
            advance=progress.advance,
        )
    return Inspection(run, others, split, chosen, tree, effort, seed)


def _answer(place: int, inspection: Inspection) -> Section:
    """One section; one that this run cannot answer says why."""
    name, question, answer = _QUESTIONS[place]
    section = Section(name, question)
    began = time.monotonic()
    try:
        with seeded(inspection.run.device, inspection.seed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of plots; what is wrong with numbers is in the text
            answer(inspection, section)
    except (Unanswered, InputError) as error:
        section.unanswered = str(error)
    section.seconds = time.monotonic() - began
    told = "not answered" if section.unanswered else f"{section.seconds:.0f} s"
    print(f"{place + 1}/{len(_QUESTIONS)} {question} {told}", file=sys.stderr, flush=True)
    return section


_QUESTIONS: list[tuple[str, str, Callable[[Inspection, Section], None]]] = [
    ("guide", "How good is the guide, datum by datum?", guide_quality),
    ("gap", "Where does the gap come from?", gap),
    ("posterior", "What does the true posterior look like?", true_posterior),
    ("log_likelihood", "How sure is log p(x)?", intervals),
    ("calibration", "Is the inference calibrated?", calibrated),
    ("latent", "What does the latent space hold?", latent),
    ("comparison", "Which model is better?", comparison),
]


def _least(effort: Effort) -> dict[str, tuple[int, int]]:
    """Each option of the sections with its least value."""
    least = {"nuts_draws": 4, "simulations": 5 * BINS, "particles": 25, "temperatures": 2}
    return {name: (value, least.get(name, 1)) for name, value in asdict(effort).items()}


def _check(**values: tuple[int, int]) -> None:
    for name, (value, least) in values.items():
        if value < least:
            raise InputError(f"--{name}: expected at least {least}; got {value}")


def _check_once(runs: list[Run]) -> None:
    paths = [each.path.resolve() for each in runs]
    for place, path in enumerate(paths):
        if path in paths[:place]:
            raise InputError(f"expected every run once; got {runs[place].path} twice")


def _plain(value: Any) -> Any:
    """JSON has no infinity and no NaN: null."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def main(arguments: list[str] | None = None) -> None:
    """The command line of `posterior`."""
    run_verb(_main, arguments)


def _main(arguments: list[str]) -> None:
    parser = Parser.of_verb("posterior", "Inspect the inference of a run, with ArviZ.")
    add_run(parser)
    parser.add_argument("others", nargs="*", type=Path, default=[], help="Runs to compare it with.")
    parser.add_function_arguments(posterior, skip={"run", "others"}, as_group=False)
    options = parse_with_run(parser, arguments)
    options["runs"] = [options.pop("run"), *options.pop("others")]
    run, *others = pop_runs(options)
    result = posterior(run, others, **options)
    print(
        table(
            f"{run.path}: {result['data']}, {len(result['images']):,} images of the "
            f"{result['split']} split, in {result['seconds']:.1f} seconds",
            _rows(run, result),
        )
    )


def _rows(run: Run, result: dict[str, Any]) -> dict[str, str]:
    """The answers in one line each."""
    rows = {}
    for name, question, _ in _QUESTIONS:
        if result[name]["unanswered"]:
            rows[question] = f"not answered: {result[name]['unanswered']}"
    written = (REPORT, NUMBERS, POSTERIOR)
    return rows | {"written": ", ".join(str(run.path / name) for name in written)}


if __name__ == "__main__":
    main()
