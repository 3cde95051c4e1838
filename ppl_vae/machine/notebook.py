"""Showing things in a notebook that runs the program; elsewhere nothing is shown."""

import base64
import html
import sys
from pathlib import Path
from typing import Any

__all__ = ["Pictures", "Place", "in_notebook"]

_KINDS = {".png": "image/png", ".gif": "image/gif"}


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this program. IPython is not imported to find out."""
    ipython = sys.modules.get("IPython")
    shell: Any = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None


class Place:
    """A place below the cell that runs, whose content is replaced by what is shown next."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, thing: Any) -> None:
        """Shows an object there by its rich representation."""
        from IPython.display import display

        if self._handle is None:
            self._handle = display(thing, display_id=True)
        else:
            self._handle.update(thing)


class Pictures(list[Path]):
    """The paths of files, a list that a notebook shows as the pictures that they hold."""

    def _repr_html_(self) -> str:
        return "\n".join(map(_shown, self))


def _shown(path: Path) -> str:
    name = html.escape(str(path))
    if path.suffix not in _KINDS or not path.is_file():
        return f"<div>{name}</div>"
    data = base64.b64encode(path.read_bytes()).decode()
    source = f"data:{_KINDS[path.suffix]};base64,{data}"
    image = f'<img src="{source}" alt="{name}" style="max-width: 100%">'
    return f"<figure>{image}<figcaption>{name}</figcaption></figure>"
