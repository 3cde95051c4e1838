"""The parts of the report: sections that answer one question each, and pictures."""

from base64 import b64encode
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Picture", "Section", "Unanswered", "panels", "picture_of", "plain"]

_DPI = 150
_SCREEN_DPI = 96  # pixels of CSS in an inch


class Unanswered(Exception):
    """A question that this run gives no answer to, and why: one clause, without a full stop."""


@dataclass(frozen=True)
class Picture:
    """A picture.

    Attributes:
        png: The bytes of the file.
        width: In pixels of CSS, at which text has its size.
    """

    png: bytes
    width: int

    @property
    def source(self) -> str:
        """The file as a URL."""
        return f"data:image/png;base64,{b64encode(self.png).decode()}"


@dataclass
class Section:
    """The answer to one question; its words are those of the template of its name.

    Attributes:
        name: Its key in the JSON file.
        question: The head.
        numbers: Its content in the JSON file, with units in the names.
        facts: Further values for the template.
        pictures: For the template, by name.
        html: The template, filled in.
        unanswered: Why there is no answer, where there is none.
        failed: The error, where the computation failed.
        seconds: How long it took.
    """

    name: str
    question: str
    numbers: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, Picture] = field(default_factory=dict)
    html: str = ""
    unanswered: str | None = None
    failed: str | None = None
    seconds: float = 0.0

    def content(self) -> dict[str, Any]:
        """The section of the JSON file."""
        kept = {name: getattr(self, name) for name in ("unanswered", "failed", "seconds")}
        return self.numbers | kept


def picture_of(figure: "Figure", exact: bool = False) -> Picture:
    """Renders a figure; its margins are cut off unless it is exact to the pixel.

    A figure of pyplot's is closed.
    """
    file = BytesIO()
    figure.savefig(
        file,
        format="png",
        dpi=_DPI,
        metadata={"Software": None},
        bbox_inches=None if exact else "tight",
        facecolor="white",
    )
    if hasattr(figure, "number"):
        from matplotlib import pyplot

        pyplot.close(figure)
    png = file.getvalue()
    pixels = int.from_bytes(png[16:20], "big")  # where a PNG says how wide it is
    return Picture(png, round(pixels * _SCREEN_DPI / _DPI))


def panels(count: int, columns: int, width: float, height: float) -> dict[str, Any]:
    """The layout of `count` panels for ArviZ, titled by their coordinates alone."""
    from arviz_base.labels import NoVarLabeller

    columns = min(columns, count)
    size = (width * columns + 0.4, height * -(-count // columns) + 0.3)
    return {
        "backend": "matplotlib",
        "col_wrap": columns,
        "labeller": NoVarLabeller(),
        "figure_kwargs": {"figsize": size, "layout": "constrained"},
    }


def plain(axes: "Axes") -> None:
    """Removes frame lines without meaning."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8.5)
