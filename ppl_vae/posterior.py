"""Inspect the inference of a run: `python -m ppl_vae.posterior RUN [RUN2 ...]`."""

import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ppl_vae.command_line.parser import Parser
from ppl_vae.command_line.verbs import add_run, parse_with_run, pop_runs, run_verb
from ppl_vae.errors import InputError, check_within, reason
from ppl_vae.inference.datatree import to_datatree
from ppl_vae.inference.netcdf import needs_arviz, write_datatree
from ppl_vae.machine.devices import check_seed
from ppl_vae.machine.files import whole_file
from ppl_vae.machine.progress import Progress, announced, table
from ppl_vae.machine.randomness import seeded
from ppl_vae.pairs.calls import called_anywhere
from ppl_vae.report.calibrated import BINS, calibrated
from ppl_vae.report.comparison import comparison
from ppl_vae.report.gap import gap
from ppl_vae.report.guide_quality import guide_quality
from ppl_vae.report.inspection import Choose, Effort, Inspection, Selection, choose_images
from ppl_vae.report.intervals import intervals
from ppl_vae.report.latent import latent
from ppl_vae.report.page import page, rendered
from ppl_vae.report.section import Section, Unanswered
from ppl_vae.report.true_posterior import true_posterior
from ppl_vae.report.verdict import verdict
from ppl_vae.runs.results import plain, writable, write_numbers
from ppl_vae.runs.run import Run, as_run

if TYPE_CHECKING:
    from xarray import DataTree

__all__ = ["POSTERIOR", "REPORT", "main", "posterior"]

POSTERIOR = "posterior.nc"
REPORT = "posterior.html"
NUMBERS = "posterior.json"

_CHAINS = 4
_LEAST = {"nuts_draws": 4, "simulations": 5 * BINS, "particles": 25, "temperatures": 2}  # else 1


@called_anywhere
def posterior(
    run: Run | Path | str,
    others: Sequence[Run | Path | str] | None = None,
    split: Literal["train", "validation", "test"] = "test",
    count: int = 500,
    choose: Choose = "random",
    images: list[int] | None = None,
    label: int | str | None = None,
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
    out: Path | str | None = None,
) -> dict[str, Any]:
    """Inspects the inference of a trained pair, in RUN/posterior.nc, .html and .json.

    Other images than random ones of the test split have files of their own, such as
    posterior-validation-worst.html. A section that cannot be computed says so, and the others are
    written.

    Args:
        run: A trained run, or its path.
        others: Further runs or paths, to compare with it on the same images.
        split: Where the images are from.
        count: How many images.
        choose: How: at `random`, the `first`, or the `worst` by k-hat among four times as many.
        images: Indices of images, in place of a choice.
        label: Only images with this label, a number or the name of a class.
        draws: Draws of z for each image, in four chains of equal length.
        predictive_draws: Of x for each image, at most; fewer where they would take too much memory.
        particles: The largest K of the curve of importance-weighted bounds.
        gap_images: Images whose gap is split.
        gap_steps: Steps at most that fit the guide's family to an image.
        shown: Images whose true posterior is sampled with NUTS, and whose log p(x) gets intervals.
        nuts_draws: Draws of each of the four chains of NUTS.
        temperatures: Number of temperatures of annealed importance sampling.
        simulations: Images drawn from the model for simulation-based calibration.
        seed: The seed of all draws.
        out: The folder to write to; the run directory unless given.

    Returns:
        The content of `posterior.json`, a verdict first (see `ppl_vae.report.verdict.verdict`); the
        error of a section that failed is under its `failed`.

    Raises:
        InputError: If something given is wrong, the guide has no density, or the folder cannot be
            written to; this is found out before anything is computed.
        OSError: If the files cannot be written at the end; the numbers are printed then.
    """
    check_seed(seed)
    effort = Effort(particles, gap_images, gap_steps, shown, nuts_draws, temperatures, simulations)
    check_within("draws", draws, 100)
    check_within("predictive_draws", predictive_draws, 1)
    for name, value in asdict(effort).items():
        check_within(name, value, _LEAST.get(name, 1))
    if draws % _CHAINS:
        raise InputError(f"--draws: expected a multiple of {_CHAINS}; got {draws}")
    if isinstance(others, (Run, Path, str)):
        raise InputError(f"expected others as a list of runs; got {type(others).__name__}")
    run, compared = as_run(run), [as_run(other) for other in others or []]
    _check_once([run, *compared])
    if not getattr(run.guide, "has_density", True):
        raise InputError(
            f"{run.path}: {type(run.guide).__name__} has no density q(z|x), so that nothing can be "
            "said about it as a posterior; train a run with another guide"
        )
    needs_arviz()
    folder = writable(out or run.path)
    began = time.monotonic()
    data = run.split(split)
    chosen = choose_images(run, data, count, images, label, choose, seed)
    inspection = Inspection(
        run=run,
        others=compared,
        split_name=split,
        selection=chosen,
        tree=_draw(run, split, chosen, draws, predictive_draws, seed),
        effort=effort,
        seed=seed,
    )
    sections = [_answer(place, inspection) for place in range(len(_QUESTIONS))]
    judged = verdict(
        {section.name: section.content() for section in sections},
        inspection.log_p,
        f"{chosen.phrase()} of the {split} split",
        type(run.guide).__name__,
        refinable=run.model.latents == ("z",) and not run.model.labelled,
    )
    result = {
        "verdict": judged,
        "run": str(run.path),
        "others": [str(other.path) for other in inspection.others],
        "data": run.data.name,
        "split": split,
        "reference_measure": run.data.reference_measure,
        "quantity": inspection.log_p,
        "choose": chosen.how,
        "label": label,
        "candidates": chosen.candidates,
        "images": chosen.images.tolist(),
        "draws": draws,
        **{section.name: section.content() for section in sections},
        "seconds": time.monotonic() - began,
        "seed": seed,
        "device": str(run.device),
        "null": "not known, or not finite: where k-hat is above 0.7, importance sampling has no "
        "standard error and no upper end",
    }
    facts = [
        f"{type(run.model).__name__} with guide {type(run.guide).__name__}, {run.data.note}",
        f"{chosen.phrase()}, from the {split} split, {draws:,} draws of z for each; seed {seed}; "
        f"{result['seconds']:.0f} seconds",
    ]
    if inspection.joint(1).structure.in_guide:
        facts.append(
            "the class is summed out: ELBO, rate and distortion are of z alone, where those of "
            "evaluate are of z and the class"
        )
    result = plain(result)
    netcdf, report, numbers = _paths(folder, result)
    write_numbers(numbers, result)
    write_datatree(inspection.tree, netcdf)
    title = f"Inference of {run.path}"
    with whole_file(report) as file:
        file.write(page(title, facts, judged["text"], sections, chosen.how, split).encode())
    return result


def _paths(folder: Path, result: dict[str, Any]) -> list[Path]:
    """The draws, the report and the numbers; the names say which images they are of."""
    split = "" if result["split"] == "test" else f"-{result['split']}"
    how = "" if result["choose"] == "random" else f"-{result['choose']}"
    label = "" if result["label"] is None else f"-label-{result['label']}"
    names = (Path(name) for name in (POSTERIOR, REPORT, NUMBERS))
    return [folder / f"{name.stem}{split}{how}{label}{name.suffix}" for name in names]


def _draw(
    run: Run, split: str, chosen: Selection, draws: int, predictive_draws: int, seed: int
) -> "DataTree":
    """Draws z and x for the images, which all sections share."""
    labels = run.split(split).labels
    size = len(chosen.images)
    progress = Progress(f"drawing for {run.path}", draws * size, "draws")
    with progress, seeded(run.device, seed):
        return to_datatree(
            run.model,
            run.guide,
            chosen.batch,
            draws=draws // _CHAINS,
            chains=_CHAINS,
            predictive_draws=max(1, predictive_draws // _CHAINS),
            images=chosen.images.tolist(),
            labels=None if labels is None else labels[chosen.images].tolist(),
            advance=progress.advance,
        )


def _answer(place: int, inspection: Inspection) -> Section:
    """One section; one that has no answer, or whose computation fails, says why."""
    name, question, answer = _QUESTIONS[place]
    section = Section(name, question.replace("log p(x)", inspection.log_p))
    began = time.monotonic()
    said = {
        "log_p": inspection.log_p,
        "x": "x, y" if inspection.log_p.endswith("|y)") else "x",
        "which": inspection.selection.phrase,
        "split": inspection.split_name,
    }
    try:
        asked = f"{place + 1}/{len(_QUESTIONS)} {question}"
        with (
            announced(asked.rstrip("?")),
            seeded(inspection.run.device, inspection.seed),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # of plots; the text says what is wrong with numbers
            answer(inspection, section)
        section.html = rendered(section, **said)
    except (Unanswered, InputError) as error:
        section.unanswered = str(error)
    except Exception as error:
        section.failed = f"{type(error).__name__}: {reason(error)}"
        traceback.print_exc()
    section.seconds = time.monotonic() - began
    took = (
        f"{section.seconds:.0f} s" if section.html else "failed" if section.failed else "no answer"
    )
    print(f"{place + 1}/{len(_QUESTIONS)} {question} {took}", file=sys.stderr, flush=True)
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


def _check_once(runs: list[Run]) -> None:
    paths = [each.path.resolve() for each in runs]
    for place, path in enumerate(paths):
        if path in paths[:place]:
            raise InputError(f"expected every run once; got {runs[place].path} twice")


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
    paths = _paths(Path(options["out"] or run.path), result)
    chosen = "" if result["choose"] == "random" else f" ({result['choose']})"
    print(
        table(
            f"{run.path}: {result['data']}, {len(result['images']):,} images{chosen} of the "
            f"{result['split']} split, in {result['seconds']:.1f} seconds",
            {"verdict": result["verdict"]["text"]}
            | _rows(result)
            | {"written": ", ".join(map(str, paths))},
        )
    )
    if any(result[name]["failed"] for name, *_ in _QUESTIONS):
        sys.exit(1)


def _rows(result: dict[str, Any]) -> dict[str, str]:
    """The questions without an answer, in one line each."""
    rows = {}
    for name, question, _ in _QUESTIONS:
        for how in ("unanswered", "failed"):
            if result[name][how]:
                rows[question] = f"{how.replace('un', 'not ')}: {result[name][how]}"
    advice = result["latent"].get("collapse")
    return rows | ({"note": advice} if advice else {})


if __name__ == "__main__":
    main()
