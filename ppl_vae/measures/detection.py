"""What a detection of anomalies found, and how often it was right."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppl_vae.measures.conformal import rate_with_interval
from ppl_vae.measures.ranking import nan_as_largest, ranking_scores

__all__ = ["Arrays", "Detection"]

Arrays = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Detection:
    """What `detect` finds in N images. Scores are in nats, and larger where more anomalous.

    Attributes:
        scores: By name, (N,) each.
        p_values: The conformal p-values of each score, (N,).
        flagged: (N,) bool, by the first score.
        threshold: The score in nats above which an image is flagged; infinite where none is.
        anomalous: (N,) bool where that is known, else None.
        calibration: The scores of the n calibration images, (n,) each.
        fresh: The scores of M normal images that had no part in anything, (M,) each.
        shown: The images in the picture, the least normal first and then the most normal, (S,).
        maps: Of these, the nats of each pixel above what is usual there, (S, C, H, W).
        summary: The content of `detection.json`.
    """

    scores: Arrays
    p_values: Arrays
    flagged: NDArray[np.bool_]
    threshold: float
    anomalous: NDArray[np.bool_] | None
    calibration: Arrays
    fresh: Arrays
    shown: NDArray[np.int64]
    maps: NDArray[np.float32]
    summary: dict[str, Any]

    def ranked(self) -> tuple[NDArray[np.bool_], Arrays] | None:
        """Which images are anomalous, and their scores; None where not both kinds are known.

        Where all of the N images are anomalous, the fresh normal ones stand beside them.
        """
        if self.anomalous is None or not self.anomalous.any():
            return None
        if not self.anomalous.all():
            return self.anomalous, self.scores
        fresh = next(iter(self.fresh.values()))
        truth = np.concatenate([self.anomalous, np.zeros(len(fresh), bool)])
        both = {name: np.concatenate([s, self.fresh[name]]) for name, s in self.scores.items()}
        return truth, both

    def rates(self) -> dict[str, Any]:
        """Shares with their intervals of 95 %, and AUROC and average precision of each score.

        - false_alarm_rate: of the fresh normal images, how many are above the threshold.
        - found_rate: of the anomalous images, how many are flagged.
        - false_discovery_rate: of the flagged images, how many are normal.
        """
        fresh = nan_as_largest(next(iter(self.fresh.values())))
        shares = {"false_alarm_rate": fresh > self.threshold}
        ranked = self.ranked()
        if self.anomalous is not None and ranked is not None:
            shares["found_rate"] = self.flagged[self.anomalous]
            shares["false_discovery_rate"] = ~self.anomalous[self.flagged]
        result: dict[str, Any] = {}
        for name, flags in shares.items():
            if len(flags):
                share, low, high = rate_with_interval(int(flags.sum()), len(flags))
                result |= {name: share, f"{name}_low": low, f"{name}_high": high}
        if ranked is not None:
            truth, scores = ranked
            result["ranking"] = {name: ranking_scores(truth, s) for name, s in scores.items()}
        return result
