"""Variational autoencoders as probabilistic programs: Pyro model/guide pairs, by name."""

from pathlib import Path

__all__ = ["guides", "load", "models"]


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
