"""What a report is made of: sections that answer one question each."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from math import sqrt
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Picture",
    "Section",
    "Table",
    "Unanswered",
    "counted",
    "mean_and_error",
    "number",
    "panels",
    "picture_of",
    "plain",
]

_DPI = 150
_SCREEN_DPI = 96  # what CSS calls a pixel


class Unanswered(Exception):
    """A question that this run gives no answer to, and why: one clause, without a full stop."""


@dataclass(frozen=True)
class Picture:
    """A picture with the sentence below it.

    Attributes:
        png: The bytes of the file.
        caption: What it shows.
        width: In pixels of CSS, at which text has its size.
    """

    png: bytes
    caption: str
    width: int


@dataclass(frozen=True)
class Table:
    """A small table.

    Attributes:
        caption: What it shows.
        columns: The heads.
        rows: Text, cell by cell.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass
class Section:
    """The answer to one question.

    Attributes:
        name: Its key in the JSON file.
        question: The head.
        text: Paragraphs, the answer first.
        tables: Below the text.
        pictures: Below the tables.
        numbers: What the JSON file says, with units in the names.
        unanswered: Why there is no answer, where there is none.
        seconds: What it took.
    """

    name: str
    question: str
    text: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)
    unanswered: str | None = None
    seconds: float = 0.0


def picture_of(figure: "Figure", caption: str, exact: bool = False) -> Picture:
    """Renders a figure, cut to what is drawn unless it is exact to the pixel.

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
    return Picture(png, caption, round(pixels * _SCREEN_DPI / _DPI))


def panels(count: int, columns: int, width: float, height: float) -> dict[str, Any]:
    """How ArviZ is to lay out so many panels, titled by their coordinates alone."""
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
    """Takes away what says nothing."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8.5)


def mean_and_error(values: Tensor) -> tuple[float, float | None]:
    """The mean over the images and its standard error; of a single image there is none."""
    error = (values.std() / sqrt(len(values))).item() if len(values) > 1 else None
    return values.mean().item(), error


def counted(images: int) -> str:
    """How many images, for people."""
    return f"{images:,} image" + ("" if images == 1 else "s")


def number(value: float | None, digits: int = 2) -> str:
    """A number for people, with a true minus sign; a dash where there is none."""
    if value is None or value != value:
        return "–"
    return f"{value:,.{digits}f}".replace("-", "\u2212")
