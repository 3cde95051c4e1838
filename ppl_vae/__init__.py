"""Variational autoencoders as probabilistic programs: Pyro model/guide pairs, by name."""

import sys
import warnings
from typing import Any

__all__ = ["guides", "load", "models"]


def _is_the_program() -> bool:
    """Whether Python was started as `python -m ppl_vae...`, and is looking for the module."""
    if sys.argv[:1] != ["-m"]:
        return False
    return sys.orig_argv[-len(sys.argv)].removeprefix("-m").partition(".")[0] == "ppl_vae"


def _without_traceback(kind: Any, error: Any, traceback: Any) -> None:
    """Ctrl-C while libraries are imported is one line too."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


if _is_the_program():  # programs of others that import this package keep their own ways
    sys.excepthook = _without_traceback
    if not sys.flags.safe_path:
        # Python puts the current folder first; a `yaml.py` beside the user's images is no library.
        sys.path.append(sys.path.pop(0))

from pathlib import Path  # noqa: E402


def _check_not_shadowed() -> None:
    import importlib.util

    home = Path(__file__).resolve().parent.parent
    for name in ("models", "guides"):
        found = importlib.util.find_spec(name)
        places = list(found.submodule_search_locations or []) if found else []
        expected = home / name
        if not any(Path(place).resolve() == expected for place in places):
            where = places[0] if places else getattr(found, "origin", None) or "nowhere"
            raise ImportError(
                f"ppl_vae needs its own package {name!r} ({expected}), but Python found {where}; "
                "rename that one, or run from another folder"
            )


_check_not_shadowed()

# Pyro's own progress bars, which nothing here shows, miss ipywidgets in a notebook without it.
warnings.filterwarnings("ignore", message="IProgress not found")

import guides  # noqa: E402
import models  # noqa: E402
from ppl_vae.runs.run import load  # noqa: E402
