"""The end of a training: `summary.json`, and the table on the terminal."""

import platform
import sys
from contextlib import suppress
from importlib.metadata import version
from typing import Any

import torch

from ppl_vae.machine.devices import machine_of
from ppl_vae.machine.progress import table
from ppl_vae.measures.scores import collapse, quantity
from ppl_vae.pairs.descriptions import outside_classes
from ppl_vae.runs.directory import PICTURES, SUMMARY, write_json
from ppl_vae.runs.metrics import ELBO_COLUMN, IWAE_COLUMN
from ppl_vae.runs.run import Run
from ppl_vae.training.loop import Training

__all__ = ["report", "write_summary"]


def write_summary(run: Run, training: Training) -> None:
    """Writes RUN/summary.json: the metrics of the kept parameters, times, memory and versions.

    Raises:
        OSError: If it cannot be written.
    """
    images = training.steps / training.steps_per_epoch * len(run.data.train)
    summary: dict[str, Any] = {
        "data": run.data.name,
        "reference_measure": run.data.reference_measure,
        "training_images": len(run.data.train),
        "parameters": sum(p.numel() for p in training.step.parameters.values()),
        **training.kept_row(),
        "trained_epochs": len(training.rows),
        "trained_steps": training.steps,
        "training_seconds": training.seconds,
        "images_per_second": images / training.seconds,
        "process_peak_memory_bytes": _peak_memory_bytes(),
        "device": str(run.device),
        "machine": machine_of(run.device),
        "engine": training.engine,
        "precision": run.config.get("precision", "float32"),
        "versions": {
            "ppl-vae": version("ppl-vae"),
            "torch": torch.__version__,
            "pyro-ppl": version("pyro-ppl"),
            "python": platform.python_version(),
        },
    }
    write_json(run.path / SUMMARY, summary)


def _peak_memory_bytes() -> int | None:
    """The most memory that this process held; None on Windows, which has no such count."""
    with suppress(ImportError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024  # in bytes there, in KiB elsewhere
    return None


def report(run: Run) -> str:
    """The numbers of `summary.json` and the paths of the pictures, as a short table."""
    summary = run.summary
    bounded = run.guide.has_density  # a point has a distortion but no ELBO
    rows = {
        term: f"{summary[f'validation_{term.lower()}_nats_per_datum']:.2f} nats per datum"
        for term in (("ELBO", "rate", "distortion") if bounded else ("distortion",))
    }
    gain = None
    if IWAE_COLUMN in summary:
        gain = summary[IWAE_COLUMN] - summary[ELBO_COLUMN]
        bound = f"IWAE bound, {run.pieces['objective'].bound_particles:,} particles"
        rows[bound] = f"{summary[IWAE_COLUMN]:.2f} nats per datum"
    if summary["epoch"] < summary["trained_epochs"]:
        rows["kept"] = f"the best epoch, {summary['epoch']:,} of {summary['trained_epochs']:,}"
    rows["training"] = (
        f"{summary['trained_steps']:,} steps in {summary['training_seconds']:.1f} seconds "
        f"({summary['images_per_second']:,.0f} {run.data.noun} per second)"
    )
    if summary.get("skipped_steps"):
        rows["training"] += f"; {summary['skipped_steps']:,} of them left out as outliers"
    pictures = sorted((run.path / PICTURES).iterdir())
    rows |= {picture.stem.replace("_", " "): str(picture) for picture in pictures}
    rate = summary["validation_rate_nats_per_datum"]
    advice = collapse(rate, gain=gain) if bounded else None
    rows |= {"note": advice} if advice else {}
    rows["next"] = f"python -m ppl_vae.evaluate {run.path}"
    if outside_classes(run.config):
        rows["next"] += " --allow_code true"
    log_p = quantity(run.model, run.spec.holes)
    given = "" if log_p == "log p(x)" else f" of {log_p}"
    meaning = f"ELBO{given} = -(rate + distortion)" if bounded else "distortion = -log p(x|z)"
    title = f"{run.path}: {summary['data']}, validation {run.data.noun} ({meaning})"
    return table(title, {"measure": summary["reference_measure"], **rows})
