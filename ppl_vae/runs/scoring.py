"""The anomaly scores of images under a run: what each needs is computed once."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ppl_vae.compiler.compiling import Engine
from ppl_vae.data import Facts, Split
from ppl_vae.errors import InputError
from ppl_vae.inference.gaps import gap_decomposition
from ppl_vae.machine.progress import Progress
from ppl_vae.measures.anomaly_scores import (
    CODED,
    SCORES,
    Evidence,
    Score,
    code_lengths,
    log_volume,
)
from ppl_vae.measures.detection import Arrays
from ppl_vae.measures.estimates import Estimates, estimate
from ppl_vae.measures.exemplars import (
    AggregatePosterior,
    exemplar_elbo,
    has_aggregate_posterior,
)
from ppl_vae.runs.run import Run

__all__ = ["Scoring", "best_score"]

_TRAINING_POINTS = 1000  # training images whose mean log p(x) is what is typical
_REGRET_STEPS = 1000
_REGRET_PARTICLES = 100
_SLOWER = {"exemplar_complexity", "likelihood_ratio", "likelihood_regret"}  # pass once more
_BATCH = 1000  # images in memory while their posteriors are fitted

_Advance = Callable[[int], None]


@dataclass(frozen=True)
class Scoring:
    """Computes scores of splits, all in the same way.

    Args:
        run: A trained run, whose guide has a density.
        names: Of the scores.
        particles: K, draws of z for each image.
        background: For `likelihood_ratio`, a run on the same images with replaced pixels.
        engine: As for `ppl_vae.measures.estimates.estimate`.

    Raises:
        InputError: If a score is unknown or named twice, the guide is a point, or the background
            is missing, superfluous, or of other data.
    """

    run: Run
    names: tuple[str, ...]
    particles: int
    background: Run | None = None
    engine: Engine = "auto"

    def __post_init__(self) -> None:
        unknown = [name for name in self.names if name not in SCORES]
        if unknown or not self.names or len({*self.names}) < len(self.names):
            got = unknown[0] if unknown else list(self.names)
            raise InputError(f"--scores: expected different ones of {', '.join(SCORES)}; got {got}")
        for run in (self.run, self.background):
            if run is not None and not run.guide.has_density:
                raise InputError(
                    f"expected a guide with a density; q(z|x) of {type(run.guide).__name__} in "
                    f"{run.path} is a point; train a run with another guide, such as DiagonalNormal"
                )
            if run is not None and run.spec.holes:
                raise InputError(
                    "expected a run of images without missing pixels, since scores of images with "
                    "more or fewer of them do not compare; train one on complete images instead of "
                    f"{run.path}"
                )
        if (self.background is None) == ("likelihood_ratio" in self.names):
            remedy = "name a run on the same images that was trained with --data.perturb 0.2"
            if self.background is not None:
                remedy = "add likelihood_ratio to --scores, or leave the background out"
            raise InputError(f"--background and the score likelihood_ratio go together; {remedy}")
        if self.background is not None:
            _check_background(self.run, self.background)
        if "exemplar_complexity" in self.names and not _has_exemplars(self.run):
            raise InputError(
                "--scores: exemplar_complexity needs q(z|x) of an image alone as one distribution, "
                f"which {type(self.run.guide).__name__} of {self.run.path} is not; choose others, "
                "such as --scores '[complexity]'"
            )

    @cached_property
    def _usual(self) -> float:
        """The mean log p(x) of training images."""
        some = self.run.data.train.first(_TRAINING_POINTS)
        progress = Progress("training images", len(some), "images")
        with progress:
            return self._estimates(self.run, some, progress.advance).log_likelihood.mean().item()

    def __call__(self, title: str, images: Split) -> Arrays:
        """The scores of N images, (N,) each, in nats.

        Args:
            title: What to call the images while they are scored.
            images: N images of the run's domain.

        Raises:
            InputError: If a score needs grey levels, and the run's images have none, or the guide
                has no family to fit to one image.
        """
        passes = 1 + any(name in CODED for name in self.names)
        passes += len(_SLOWER & {*self.names})
        usual = self._usual if "typicality" in self.names else None
        with Progress(title, passes * len(images), "image passes") as progress:
            estimates = self._estimates(self.run, images, progress.advance)
            background = None
            if self.background is not None:
                background = self._estimates(self.background, images, progress.advance)
            evidence = Evidence(
                estimates,
                log_volume(self.run.data),
                code_lengths(self.names, images, self.run.data, progress.advance),
                background,
                usual,
                self._regret(images, progress.advance),
                self._exemplar_elbo(images, progress.advance),
            )
        return {name: SCORES[name](evidence).cpu().numpy() for name in self.names}

    def _estimates(self, run: Run, images: Split, advance: _Advance) -> Estimates:
        with torch.no_grad():
            return estimate(
                run.model, run.guide, images, self.particles, advance=advance, engine=self.engine
            )

    @cached_property
    def _aggregate(self) -> AggregatePosterior:
        return AggregatePosterior.of(self.run.guide, self.run.data.train)

    def _exemplar_elbo(self, images: Split, advance: _Advance) -> Tensor | None:
        if "exemplar_complexity" not in self.names:
            return None
        run = self.run
        return exemplar_elbo(run.model, run.guide, images, self._aggregate, self.particles, advance)

    def _regret(self, images: Split, advance: _Advance) -> Tensor | None:
        """The amortization gap of each image, (N,)."""
        if "likelihood_regret" not in self.names:
            return None
        given = self.run.model.given_class
        gaps = [
            gap_decomposition(
                self.run.model,
                self.run.guide,
                batch,
                particles=_REGRET_PARTICLES,
                steps=_REGRET_STEPS,
                advance=advance,
            ).amortization_gap
            for batch in images.in_turn(_BATCH, given)
        ]
        return torch.cat(gaps)


def _check_background(run: Run, background: Run) -> None:
    if background.path.resolve() == run.path.resolve():
        raise InputError(
            f"--background: expected another run than {run.path}; name one on the same images that "
            "was trained with --data.perturb 0.2"
        )
    same = (run.spec.domain, run.spec.image_shape) == (
        background.spec.domain,
        background.spec.image_shape,
    )
    if not same or [*run.fingerprint] != [*background.fingerprint]:
        raise InputError(
            f"expected a background run on the images of {run.path}, in the same domain; "
            f"{background.path} is on others ({background.spec.domain} images of "
            f"{' x '.join(map(str, background.spec.image_shape))}, {_sizes(background)} training "
            "/ validation / test); train it with the same --data and --data.perturb 0.2"
        )


def _sizes(run: Run) -> str:
    return " / ".join(f"{int(each.partition('-')[0]):,}" for each in run.fingerprint)


def best_score(run: Run, facts: Facts) -> Score:
    """The first of exemplar_complexity, complexity and log_likelihood that a run has.

    Args:
        run: A trained run.
        facts: Of the images to score.
    """
    if facts.domain in ("unit", "real") and None in (facts.levels, run.data.levels):
        return "log_likelihood"
    return "exemplar_complexity" if _has_exemplars(run) else "complexity"


def _has_exemplars(run: Run) -> bool:
    return has_aggregate_posterior(run.model, run.guide, run.data.validation)
