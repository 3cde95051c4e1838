"""Pictures of anomaly detection: images under their maps, histograms of scores, two curves."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ppl_vae.pictures.figures import BLUE, FAINT, GREEN, INK, ORANGE, literal, new_figure, save
from ppl_vae.pictures.plots import image_grid

__all__ = ["draw_curves", "draw_extremes", "draw_histograms"]

_STRONGEST = 99.5  # percent of the values of a map below the one that has full colour
_BINS = 60


def draw_extremes(
    groups: Mapping[str, tuple[ArrayLike, ArrayLike]], path: Path, title: str
) -> None:
    """Draws groups of images in two rows each: as they are, and under their maps.

    More nats than usual are red and fewer are blue, on one scale for all.

    Args:
        groups: By name, images (N, C, H, W) in [0, 1] and maps (N, C, H, W) in nats.
        path: The PNG to write.
        title: Printed above.
    """
    maps = {name: np.asarray(nats).sum(1) for name, (_, nats) in groups.items()}
    sizes = np.abs(np.concatenate([nats.ravel() for nats in maps.values()]))
    strongest = float(np.percentile(sizes, _STRONGEST)) or 1.0
    rows, labels = [], []
    for name, (images, _) in groups.items():
        grey = np.asarray(images).mean(1)
        rows += [_as_colour(np.asarray(images)), _overlaid(grey, maps[name] / strongest)]
        labels += [literal(name), f"{strongest:.2g} nats: full colour"]
    image_grid(np.stack(rows), path, title=title, row_labels=labels, blocks=(2, len(rows[0])))


def _as_colour(images: NDArray) -> NDArray:
    return np.broadcast_to(images, (len(images), 3, *images.shape[2:]))


def _overlaid(grey: NDArray, strength: NDArray) -> NDArray:
    """Grey images (N, H, W) in pale, with colour by a strength in [-1, 1]: (N, 3, H, W)."""
    colours = [np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)]) / 255 for c in (ORANGE, BLUE)]
    alpha = np.clip(np.abs(strength), 0, 1)[:, None]
    colour = np.where((strength > 0)[:, None], *(c[None, :, None, None] for c in colours))
    pale = 1 - 0.4 * grey[:, None]
    return (1 - alpha) * pale + alpha * colour


def draw_histograms(
    scores: Mapping[str, Mapping[str, ArrayLike]], thresholds: Mapping[str, float], path: Path
) -> None:
    """Draws the histograms of each score in a panel, one for each kind of images.

    A panel goes from the smallest score to the largest but for a hundredth of each kind.

    Args:
        scores: By the name of the score and the kind of images, (N,) in nats.
        thresholds: The score from which on an image is flagged, where that is one number.
        path: The PNG to write.
    """
    columns = min(3, len(scores))
    lines = -(-len(scores) // columns)
    figure = new_figure(1 + 3.4 * columns, 0.7 + 2.1 * lines)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for panel in panels[len(scores) :]:
        panel.set_visible(False)
    for panel, (name, kinds) in zip(panels, scores.items(), strict=False):
        finite = {k: v[np.isfinite(v)] for k, v in ((k, np.asarray(v)) for k, v in kinds.items())}
        ends = [np.percentile(v, (0.5, 99.5)) for v in finite.values() if len(v)]
        low, high = (min(e[0] for e in ends), max(e[1] for e in ends)) if ends else (0, 1)
        edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
        for (kind, values), colour in zip(finite.items(), (BLUE, ORANGE, GREEN), strict=False):
            shares = np.histogram(values, edges)[0] / max(1, len(values))
            panel.stairs(shares, edges, color=colour, fill=True, alpha=0.35)
            panel.stairs(shares, edges, color=colour, linewidth=1.3, label=literal(kind))
        if name in thresholds:
            panel.axvline(thresholds[name], color=INK, linewidth=1, linestyle="--")
        panel.set_title(name.replace("_", " "), loc="left", fontsize=10)
        panel.set_xlabel("nats", fontsize=9)
        panel.set_yticks([])
        panel.spines[["top", "right", "left"]].set_visible(False)
        panel.tick_params(labelsize=8.5, colors=INK)
    panels[0].legend(frameon=False, fontsize=8.5)
    figure.tight_layout()
    save(figure, path)


def draw_curves(anomalous: ArrayLike, scores: Mapping[str, ArrayLike], path: Path) -> None:
    """Draws the ROC and the precision-recall curve of each score.

    Args:
        anomalous: (N,) bool.
        scores: By name, (N,), larger where more anomalous.
        path: The PNG to write.
    """
    from sklearn.metrics import precision_recall_curve, roc_curve

    truth = np.asarray(anomalous, dtype=bool)
    figure = new_figure(8.4, 3.9)
    roc, pr = figure.subplots(1, 2)
    for name, values in scores.items():
        ranks = np.unique(np.nan_to_num(values, nan=np.inf), return_inverse=True)[1]
        false_alarms, found, _ = roc_curve(truth, ranks)
        roc.plot(false_alarms, found, linewidth=1.5, label=name.replace("_", " "))
        precision, recall, _ = precision_recall_curve(truth, ranks)
        pr.plot(recall, precision, linewidth=1.5)
    roc.plot([0, 1], [0, 1], color=FAINT, linewidth=0.8, linestyle=":")
    pr.axhline(truth.mean(), color=FAINT, linewidth=0.8, linestyle=":")
    for axes, x, y in (
        (roc, "false-alarm rate", "share of anomalies found"),
        (pr, "share of anomalies found (recall)", "share of flags that are right (precision)"),
    ):
        axes.set_xlabel(x, fontsize=9)
        axes.set_ylabel(y, fontsize=9)
        axes.set_xlim(-0.01, 1.01)
        axes.set_ylim(-0.01, 1.01)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8.5, colors=INK)
    roc.legend(frameon=False, fontsize=8.5, loc="lower right")
    figure.tight_layout()
    save(figure, path)
