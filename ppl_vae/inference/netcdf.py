"""Trees of draws as NetCDF files, and ArviZ's packages."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_vae.errors import InputError
from ppl_vae.machine.files import whole_file

if TYPE_CHECKING:
    from xarray import DataTree

__all__ = ["array_stats", "needs_arviz", "read_datatree", "write_datatree"]


def write_datatree(tree: "DataTree", path: Path) -> None:
    """Writes a tree as NetCDF, whole or not at all; predictive images are compressed.

    Raises:
        OSError: If the file cannot be written; the old one stays.
    """
    packed = {"zlib": True, "complevel": 1, "shuffle": False}
    encoding = {
        f"/{group}": dict.fromkeys(tree.children[group].data_vars, packed)
        for group in ("prior_predictive", "posterior_predictive")
        if group in tree.children
    }
    content = tree.to_netcdf(None, engine="h5netcdf", encoding=encoding)
    with whole_file(path) as file:  # HDF5 itself ends the process where a disk is full
        file.write(content)


def read_datatree(path: str | Path) -> "DataTree":
    """Reads a file of `write_datatree` into memory.

    Raises:
        InputError: If the file is missing, or not a whole NetCDF file.
    """
    needs_arviz()
    import xarray

    if not Path(path).is_file():
        raise InputError(f"{path}: expected a NetCDF file; there is none")
    try:
        with xarray.open_datatree(path, engine="h5netcdf") as tree:
            return tree.load()
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise InputError(
            f"{path} is damaged, or no NetCDF file; write it again with "
            "python -m ppl_vae.posterior RUN"
        ) from error


def array_stats() -> Any:
    """ArviZ's functions of arrays; raises an InputError where they are not installed."""
    needs_arviz("arviz_stats.base")
    return import_module("arviz_stats.base").array_stats


def needs_arviz(*packages: str) -> None:
    """Imports ArviZ's packages, which takes seconds.

    Args:
        *packages: Which; all that the report takes unless given.

    Raises:
        InputError: If one is absent.
    """
    try:
        for package in packages or ("arviz_base", "arviz_stats", "arviz_plots", "h5netcdf"):
            import_module(package)
    except ImportError as error:
        raise InputError(
            f"this needs ArviZ, and {error.name} is not installed: "
            "python -m pip install 'ppl-vae[arviz]'"
        ) from error
