"""Variational autoencoders as probabilistic programs: Pyro model/guide pairs, by name."""

import sys

__all__ = ["guides", "load", "models"]


def _current_folder_last() -> None:
    """Under `python -m ppl_vae...`, a `yaml.py` beside the user's images is no library.

    Python puts the current folder first. Programs of others that import this package keep theirs.
    """
    if sys.argv[:1] != ["-m"] or sys.flags.safe_path:
        return
    module = sys.orig_argv[-len(sys.argv)].removeprefix("-m")
    if module.partition(".")[0] == "ppl_vae":
        sys.path.append(sys.path.pop(0))


_current_folder_last()

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

import guides  # noqa: E402
import models  # noqa: E402
from ppl_vae.runs.run import load  # noqa: E402
