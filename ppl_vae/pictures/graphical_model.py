"""The graphical model, drawn by running the programs rather than by their names."""

import math
import operator
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ppl_vae.pictures.figures import FAINT, INK, literal, new_figure, save
from ppl_vae.pictures.relations import Relations, relations

__all__ = ["Relations", "graphical_model", "relations"]


def graphical_model(
    model: Callable[..., Any], guide: Callable[..., Any], x: Tensor, path: Path, *labels: Tensor
) -> tuple[Relations, Relations]:
    """Draws model and guide side by side, as in Kingma and Welling (2014), figure 1.

    Circles are sites, shaded where they are data; a rounded rectangle is a plate. Solid arrows
    are the model's densities, dashed ones the guide's. The dot theta or phi stands for the
    parameters, with arrows to the sites whose density takes any.

    Args:
        model: The generative program, called with x and the labels.
        guide: The inference program, called with x and the labels.
        x: Images (B, C, H, W) to run both on.
        path: The PNG to write.
        *labels: Their labels (B,) where the programs take them. Where the model has no site for
            a label they are its input y.

    Returns:
        The relations of the model and those of the guide, x among them.
    """
    # A model that sums classes out observes labels; another takes them as given.
    name = None if not labels else "label" if getattr(model, "enumerated", ()) else "y"
    generative = relations(model, x, *labels, given_labels="y" if name == "y" else None)
    data = generative.observed[-1] if generative.observed else "x"
    inference = relations(guide, x, *labels, given=data, given_labels=name)
    if name and not any(name in above for above in inference.parents.values()):
        inference = relations(guide, x, *labels, given=data)  # which does not look at labels
    places = _places(generative, inference)
    panels = [
        _Panel(generative, places, len(x), "$\\theta$", "solid"),
        _Panel(inference, places, len(x), "$\\phi$", "dashed"),
    ]
    gap, header, footer = 0.8, 0.75, 0.42
    low = min(panel.bottom for panel in panels)
    high = max(panel.top for panel in panels)
    width = sum(panel.right - panel.left for panel in panels) + gap
    height = high - low + header + footer
    figure = new_figure(_INCHES * width, _INCHES * height)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.set_xlim(0, width)
    axes.set_ylim(low - footer, high + header)
    latent = sorted({*generative.parents} - {*generative.observed}, key=_in_order)
    seen = [site for site in generative.parents if site in generative.observed]
    inputs = [site for site in seen if not generative.distributions[site]]
    drawn = [site for site in latent if site in inference.parents]  # it may leave classes out
    taken = [site for site in seen if site in inference.parents]
    parts = ([site for site in seen + latent if site not in inputs], drawn, taken, inputs)
    joint, hidden, shown, fixed = map(_listed, parts)
    joint += f"\\,|\\,{fixed}" if inputs else ""
    titles = (f"Model  $p_\\theta({joint})$", f"Guide  $q_\\phi({hidden}\\,|\\,{shown})$")
    start = 0.0
    for panel, title in zip(panels, titles, strict=True):
        boxes = panel.boxes.values()
        inside = [edge for box in boxes for edge in (box[0], box[2])] or [panel.left, panel.right]
        middle = start - panel.left + (min(inside) + max(inside)) / 2
        axes.text(middle, high + 0.42, title, ha="center", va="center", fontsize=11.5,
                  color=INK, math_fontfamily="cm")  # fmt: skip
        panel.draw(axes, start - panel.left)
        start += panel.right - panel.left + gap
    axes.text(width / 2, low - 0.18, "shaded: data      plate: independent repeats",
              ha="center", va="center", fontsize=7.5, color=FAINT)  # fmt: skip
    save(figure, path)
    return generative, inference


_INCHES = 0.8  # of paper for one unit of the axes
_RADIUS = 0.45
_PITCH = (1.45, 1.5)  # between columns and between levels
_MARGIN = 0.24  # around the sites of a plate


def _places(model: Relations, guide: Relations) -> dict[str, tuple[float, float]]:
    """Where each site is: levels by ancestry in the model, one band of columns for each plate."""
    import networkx

    graph = networkx.DiGraph()
    graph.add_nodes_from([*model.parents, *guide.parents])
    graph.add_edges_from((up, site) for site, ups in model.parents.items() for up in ups)
    levels = {
        site: level
        for level, sites in enumerate(networkx.topological_generations(graph))
        for site in sites
    }
    for site in levels:  # a root belongs just above its children
        children = [levels[child] for child in graph.successors(site)]
        if children and not graph.in_degree(site):
            levels[site] = min(children) - 1
    bands: dict[tuple[str, ...], dict[int, list[str]]] = {}
    for site in graph.nodes:
        owner = model if site in model.parents else guide
        inside = sorted((name for name, sites in owner.plates.items() if site in sites),
                        key=lambda name: -len(owner.plates[name]))  # fmt: skip
        bands.setdefault(tuple(inside), {}).setdefault(levels[site], []).append(site)
    places, start = {}, 0.0
    for band in sorted(bands):
        rows = bands[band]
        width = max(map(len, rows.values()))
        for level, sites in rows.items():
            for column, site in enumerate(sites):
                offset = column + (width - len(sites)) / 2
                places[site] = (start + offset * _PITCH[0], -level * _PITCH[1])
        start += width * _PITCH[0] + 2 * _MARGIN
    return places


class _Panel:
    """One program on the common places of its sites."""

    def __init__(
        self,
        found: Relations,
        places: Mapping[str, tuple[float, float]],
        repeats: int,
        symbol: str,
        style: str,
    ) -> None:
        self.found, self.symbol, self.style, self.repeats = found, symbol, style, repeats
        self.places = {site: places[site] for site in found.parents}
        self.boxes = {name: self._box(sites) for name, sites in found.plates.items()}
        edges = [*self.boxes.values(), *(self._box((site,)) for site in self.places)]
        self.left = min(edge[0] for edge in edges)
        self.bottom = min(edge[1] for edge in edges)
        self.right = max(edge[2] for edge in edges)
        self.top = max(edge[3] for edge in edges)
        self.fed = [site for site, names in found.parameters.items() if names]
        heights = [self.places[site][1] for site in self.fed]
        x = self.left - 0.45 if style == "solid" else self.right + 0.45
        self.parameter = (x, sum(heights) / len(heights)) if heights else None
        if self.parameter and style == "solid":
            self.left -= 0.65
        elif self.parameter:
            self.right += 0.65
        self.arrows = [
            (self.places[parent], self.places[site], _RADIUS)
            for site, parents in found.parents.items()
            for parent in parents
        ]
        if self.parameter:
            self.arrows += [(self.parameter, self.places[site], 0.055) for site in self.fed]
        reached = [start[0] + self._reach(start, end) for start, end, _ in self.arrows]
        self.left = min([self.left, *(x - 0.1 for x in reached)])
        self.right = max([self.right, *(x + 0.1 for x in reached)])

    def _box(self, sites: tuple[str, ...]) -> tuple[float, float, float, float]:
        """Left, bottom, right and top of a plate: wider, the more plates are inside it."""
        inner = sum(set(other) < set(sites) for other in self.found.plates.values())
        pad = _RADIUS + _MARGIN * (1 + inner)
        foot = 0.2 * (1 + inner)  # the plate's name stands there
        xs, ys = zip(*(self.places[site] for site in sites), strict=True)
        return min(xs) - pad, min(ys) - pad - foot, max(xs) + pad, max(ys) + pad

    def draw(self, axes: Any, shift: float) -> None:
        from matplotlib.patches import Circle, FancyBboxPatch

        for name, (left, bottom, right, top) in self.boxes.items():
            axes.add_patch(
                FancyBboxPatch(
                    (left + shift, bottom), right - left, top - bottom, facecolor="none",
                    boxstyle="round,pad=0,rounding_size=0.16", edgecolor=FAINT, linewidth=0.9,
                )
            )  # fmt: skip
            size = self.found.sizes[name]
            times = "$N$" if size == self.repeats else f"{size:,}"
            label = f"{literal(name.removesuffix('__CLONE'))} × {times}"
            axes.text(right + shift - 0.12, bottom + 0.17, label, ha="right", va="center",
                      fontsize=8, color=INK, math_fontfamily="cm")  # fmt: skip
        for site, (x, y) in self.places.items():
            shade = "#cfcfcf" if site in self.found.observed else "white"
            axes.add_patch(
                Circle((x + shift, y), _RADIUS, facecolor=shade, edgecolor=INK, linewidth=1.1,
                       zorder=3)
            )  # fmt: skip
            words = re.sub(r"(?<=[a-z])(?=[A-Z])", "\n", self.found.distributions[site])
            drop = 0.23 if "\n" in words else 0.19
            name_size, words_size = _fitting(site, 14), _fitting(words, 7)
            style = {"ha": "center", "va": "center", "color": INK, "zorder": 4}
            axes.text(x + shift, y + (0.1 if words else 0), f"${_math(site)}$", fontsize=name_size,
                      math_fontfamily="cm", **style)  # fmt: skip
            axes.text(x + shift, y - drop, words, fontsize=words_size, linespacing=0.95, **style)
        for start, end, radius in self.arrows:
            self._arrow(axes, shift, start, end, radius)
        if self.parameter:
            x, y = self.parameter
            axes.add_patch(Circle((x + shift, y), 0.055, color=INK, zorder=3))
            axes.text(x + shift, y + 0.24, self.symbol, ha="center", va="center", fontsize=12,
                      color=INK, math_fontfamily="cm")  # fmt: skip

    def _arrow(
        self,
        axes: Any,
        shift: float,
        start: tuple[float, float],
        end: tuple[float, float],
        radius: float,
    ) -> None:
        """An arrow between two rims."""
        from matplotlib.patches import FancyArrowPatch

        bend = self._bend(start, end)
        axes.add_patch(
            FancyArrowPatch(
                (start[0] + shift, start[1]), (end[0] + shift, end[1]), mutation_scale=11,
                connectionstyle=f"arc3,rad={bend}", arrowstyle="-|>",
                shrinkA=72 * _INCHES * radius, shrinkB=72 * _INCHES * _RADIUS, color=INK,
                linewidth=1.1, zorder=2,
                linestyle=(0, (4, 2.5)) if self.style == "dashed" else "solid",
            )
        )  # fmt: skip

    def _reach(self, start: tuple[float, float], end: tuple[float, float]) -> float:
        """How far to the right of its start the middle of an arrow comes."""
        return (end[0] - start[0] + self._bend(start, end) * (end[1] - start[1])) / 2

    def _bend(self, start: tuple[float, float], end: tuple[float, float]) -> float:
        """0 where the straight arrow crosses no other site, else the least that clears them."""
        (x, y), (right, up) = start, (end[0] - start[0], end[1] - start[1])
        others = [place for place in self.places.values() if place not in (start, end)]

        def clearance(bend: float) -> float:
            """How close the arc, which is a parabola, comes to the centre of another site."""
            peak = (x + right / 2 + bend * up, y + up / 2 - bend * right)
            near = math.inf
            for t in (0.1 * step for step in range(1, 10)):
                weights = ((1 - t) ** 2, 2 * t * (1 - t), t**2)
                point = [
                    sum(map(operator.mul, weights, c)) for c in zip(start, peak, end, strict=True)
                ]
                near = min([near, *(math.dist(point, other) for other in others)])
            return near

        bends = (0.0, 0.3, -0.3, 0.6, -0.6)
        return next((b for b in bends if clearance(b) > 1.1 * _RADIUS), max(bends, key=clearance))


def _fitting(text: str, largest: float) -> float:
    """The font size at which a text fits into a circle."""
    longest = max(map(len, text.split("\n")))
    return min(largest, 1.8 * 72 * _INCHES * _RADIUS / (0.62 * max(longest, 1)))


def _in_order(site: str) -> tuple[str, int]:
    """z2 before z10."""
    stem = site.rstrip("0123456789")
    return stem, int(site[len(stem) :] or 0)


def _listed(sites: list[str]) -> str:
    """The sites, those between the second and the last as dots where there are many."""
    names = [*map(_math, sites)]
    return ", ".join(names if len(names) < 5 else [*names[:2], "\\ldots", names[-1]])


def _math(site: str) -> str:
    """z1 as z with a subscript; a longer name upright."""
    stem = site.rstrip("0123456789")
    upright = literal(f"\\mathrm{{{stem}}}").replace("_", "\\_")
    text = stem if len(stem) == 1 else upright
    return f"{text}_{{{site[len(stem) :]}}}" if stem and stem != site else text
