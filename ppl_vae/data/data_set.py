"""The base class of data sets: options, and `load`."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

from models.ranges import check_choice, check_flag, check_number
from models.spec import Domain
from ppl_vae.data.split import Data

__all__ = ["Binarize", "DataSet", "Dequantize"]

Binarize = Literal["auto", "none", "dynamic", "fixed", "threshold"]
Dequantize = Literal["auto", "uniform", "none"]


@dataclass(frozen=True, kw_only=True)
class DataSet(ABC):
    """A source of images whose fields are its whole configuration.

    To add a data set, subclass it as a frozen dataclass, set its `default_domain`, and let `load`
    read the images into a `Source` and pass that to a `Conversion`. The same fields always give the
    same splits. `where_read` names the options that only say where and how files are read: they
    alone may change once a run is trained.

    Args:
        binarize: How grey levels become 0 or 1: `dynamic` draws each training batch afresh,
            `fixed` draws the training set once from the seed, `threshold` cuts at one half, `none`
            leaves them; `auto` is `dynamic` for drawn or written characters under a likelihood for
            binary data and `none` otherwise.
        dequantize: How grey levels become real numbers: `uniform` adds noise within each level,
            `none` only scales them; `auto` is `uniform` under a likelihood for real data.
        classes: Numbers or names of the classes whose images are taken, in every split; all
            unless given. They keep their names, and are numbered 0, 1, ... in their order.
        without_classes: Numbers or names of classes whose images are left out.
        perturb: The rate at which values of the training images (each channel of each pixel) are
            replaced by grey levels that are drawn uniformly, afresh in each batch: the background
            of Ren et al. (2019), "Likelihood ratios for out-of-distribution detection".
            Validation and test images stay as they are.

    Raises:
        ValueError: If a choice is unknown, a number out of its range, a flag no truth value, a
            path no path or a list of classes no list.
    """

    binarize: Binarize = "auto"
    dequantize: Dequantize = "auto"
    classes: Sequence[int | str] | None = None
    without_classes: Sequence[int | str] | None = None
    perturb: float = 0.0
    where_read: ClassVar[tuple[str, ...]] = ("path", "root", "download")

    def __post_init__(self) -> None:
        check_choice("--data.binarize", self.binarize, get_args(Binarize))
        check_choice("--data.dequantize", self.dequantize, get_args(Dequantize))
        check_number("--data.perturb", self.perturb, least=0, most=1)
        for name in ("classes", "without_classes"):
            object.__setattr__(self, name, _classes(f"--data.{name}", getattr(self, name)))
        for field in fields(self):
            option, value = f"--data.{field.name}", getattr(self, field.name)
            if field.type is bool:
                check_flag(option, value)
            elif field.type in (Path, Path | None) and (value is not None or field.type is Path):
                if not isinstance(value, (str, Path)) or value == "":
                    raise ValueError(f"expected {option} as a path; got {value!r}")
                object.__setattr__(self, field.name, Path(value).expanduser())

    @property
    @abstractmethod
    def default_domain(self) -> Domain:
        """The domain of the data where no likelihood is chosen."""

    @property
    def table(self) -> bool:
        """Whether the data are the rows of a table, which a `Source` says of them too."""
        return False

    def of_run(self, options: Mapping[str, Any]) -> Self:
        """The data set as a run has it whose config holds these options.

        A subclass overrides this where an option that is newer than the config has another value
        for old runs than for new ones.
        """
        return self

    @abstractmethod
    def load(self, domain: Domain, seed: int) -> Data:
        """Reads the images and converts them for a likelihood.

        The global random state is left alone.

        Args:
            domain: The domain that the likelihood needs.
            seed: The run's seed. Only `fixed` binarisation of the training set depends on it; the
                splits, and the draws of the validation and test images, never do.

        Raises:
            InputError: If the files are missing or damaged, or the images do not fit the domain.
        """


def _classes(option: str, value: Any) -> tuple[int | str, ...] | None:
    """The classes in an option, as plain numbers and names."""
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or not all(
        isinstance(each, (str, Integral)) and not isinstance(each, bool) for each in value
    ):
        raise ValueError(f"expected {option} as a list of numbers or names; got {value!r}")
    return tuple(each if isinstance(each, str) else int(each) for each in value)
