"""`ppl-vae VERB ...` and `python -m ppl_vae VERB ...`: the same as `python -m ppl_vae.VERB ...`."""

import os
import sys
from importlib import import_module
from importlib.metadata import version

from ppl_vae.command_line.verbs import run_verb
from ppl_vae.errors import InputError
from ppl_vae.pairs.pieces import suggest

__all__ = ["main"]

VERBS = {
    "fit": "train a model/guide pair",
    "evaluate": "measure a run: the ELBO, its terms and log p(x)",
    "posterior": "inspect the inference: gaps, the true posterior, calibration, comparison",
    "generate": "sample, reconstruct, interpolate; manifold and traversals of the latent space",
    "detect": "find images of another kind than a run was trained on, with a guarantee",
    "restore": "remove noise and fill in missing pixels, with the model as the prior",
    "features": "compare what runs learned with PCA and k-means, on the same images",
    "compress": "compress images without loss, with the model of a run",
    "decompress": "write the images of an archive again",
    "recipes": "list the recipes of published results, with what they reached",
}


def main() -> None:
    """Runs one verb, or lists them."""
    # For the user's own classes; last, so that no file there is taken for a library's module.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: ppl-vae VERB ...; ppl-vae VERB --help tells more\n")
        print("\n".join(f"  {verb:<11}{meaning}" for verb, meaning in VERBS.items()))
        sys.exit(0 if arguments else 2)
    if arguments[0] == "--version":
        print(f"ppl-vae {version('ppl-vae')}")
        sys.exit(0)
    if arguments[0] not in VERBS:
        run_verb(lambda given: _refuse(given[0]), arguments)
    import_module(f"ppl_vae.{arguments[0]}").main(arguments[1:])


def _refuse(verb: str) -> None:
    raise InputError(f"verb: {suggest(verb, list(VERBS))}")


if __name__ == "__main__":
    main()
