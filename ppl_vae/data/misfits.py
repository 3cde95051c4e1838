"""Whether images, and the options of their conversion, fit the domain of a likelihood."""

from models.spec import Domain
from ppl_vae.errors import InputError

__all__ = ["refuse_misfits"]


def refuse_misfits(
    name: str,
    domain: Domain,
    levels: int | None,
    binarize: str,
    dequantize: str,
    scale: str | None,
) -> None:
    """Raises the one line that says what does not fit and what to do.

    Args:
        name: The data set.
        domain: The domain that the likelihood needs.
        levels: L, 2 for binary images, or None for floating-point ones.
        binarize: The binarisation.
        dequantize: The dequantisation.
        scale: Whether floating-point images are standardised; None where that is no option.

    Raises:
        InputError: If they do not fit each other.
    """
    misfit = f"a likelihood for {domain} data does not fit"
    floats = f"the floating-point values of {name}"
    if binarize != "none" and domain != "binary":
        raise InputError(
            f"{misfit} the 0s and 1s of --data.binarize {binarize}; leave that out, or choose "
            "--likelihood Bernoulli"
        )
    if domain == "binary" and binarize == "none" and levels not in (None, 2):
        raise InputError(
            f"{misfit} the grey levels of {name}; add --data.binarize dynamic, or choose "
            "--likelihood Gaussian"
        )
    if domain == "bytes" and levels is not None and levels > 256:
        raise InputError(
            f"{misfit} the {levels:,} grey levels of {name}; choose --likelihood Gaussian"
        )
    if dequantize == "uniform" and (domain != "real" or levels is None):
        raise InputError(
            f"--data.dequantize uniform is for grey levels under a likelihood for real data, not "
            f"for {f'{domain} data' if domain != 'real' else floats}; leave it out"
        )
    if scale == "standard" and (domain != "real" or levels is not None):
        raise InputError(
            f"--data.scale standard is for floating-point values under a likelihood for real data, "
            f"not for {f'{domain} data' if domain != 'real' else f'the grey levels of {name}'}; "
            "leave it out"
        )
