"""How a pair is trained: the settings of `fit`, checked where they are made."""

import dataclasses
from collections.abc import Mapping
from itertools import pairwise
from math import inf
from types import NoneType
from typing import Any, Literal, get_args

from models.ranges import check_choice, check_count, check_number, check_sizes
from ppl_vae.compiler.compiling import Engine
from ppl_vae.errors import InputError
from ppl_vae.machine.devices import DeviceChoice, check_device, check_seed

__all__ = ["Optimizer", "Precision", "Schedule", "Settings"]

Optimizer = Literal["Adam", "AdamW", "Adamax", "NAdam", "RAdam", "Muon"]
Precision = Literal["float32", "bfloat16", "tensorfloat32"]
Schedule = Literal["cosine", "constant", "step"]

_RANGES: dict[str, dict[str, float]] = {
    "learning_rate": {"above": 0},
    "clip_norm": {"above": 0},
    "skip_norm": {"above": 0},
    "adam_beta1": {"least": 0, "below": 1},
    "adam_beta2": {"least": 0, "below": 1},
    "average": {"above": 0, "below": 1},
}
_NOT_NEGATIVE: dict[str, float] = {"least": 0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How a pair is trained; `ppl_vae.fit.fit` says what each setting means.

    Numbers of NumPy become Python's. The settings with a default are missing from the configs of
    early runs.

    Raises:
        InputError: If a setting has the wrong type or is out of its range.
    """

    latent_dim: int
    epochs: int
    batch_size: int | None  # until the data are there
    learning_rate: float
    schedule: Schedule = "cosine"
    warmup_epochs: float | None
    restart_epochs: list[int] | None = None
    optimizer: Optimizer = "Adam"
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = None
    skip_norm: float | None = None
    average: float | None = None
    patience: int | None
    start_from: str | None = None
    labels: int | None = None
    label_repeats: int = 1
    seed: int
    device: DeviceChoice
    engine: Engine = "auto"
    precision: Precision = "float32"
    checkpoint_seconds: float

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Settings":
        """The settings among the entries of a config.

        Raises:
            InputError: If one is missing or wrong.
        """
        fields = {field.name: field.default for field in dataclasses.fields(cls)}
        for name, default in fields.items():
            if name not in config and default is dataclasses.MISSING:
                raise InputError(f"expected the setting {name}; got none")
        return cls(**{name: config[name] for name in fields if name in config})

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_device(self.device)
        try:
            for field in dataclasses.fields(self):
                value, types = getattr(self, field.name), (field.type, *get_args(field.type))
                never = field.name == "checkpoint_seconds" and value == inf
                if never or (value is None and NoneType in types):
                    continue
                if int in types:
                    check_count(f"--{field.name}", value, least=int(field.name != "seed"))
                    object.__setattr__(self, field.name, int(value))
                elif float in types:
                    check_number(f"--{field.name}", value, **_RANGES.get(field.name, _NOT_NEGATIVE))
                    object.__setattr__(self, field.name, float(value))
                elif list[int] in types:
                    check_sizes(f"--{field.name}", value, fewest=1)
                    object.__setattr__(self, field.name, [*map(int, value)])
                elif str in types:
                    if not isinstance(value, str):
                        raise ValueError(f"expected --{field.name} as text; got {value!r}")
                else:
                    check_choice(f"--{field.name}", value, get_args(field.type))
        except ValueError as error:
            raise InputError(str(error)) from error
        if self.warmup_epochs is not None and self.warmup_epochs >= self.epochs:
            raise InputError(
                f"expected --warmup_epochs < --epochs {self.epochs}; got {self.warmup_epochs:g}"
            )
        ends = [0, *(self.restart_epochs or ()), self.epochs]
        if any(end <= begin for begin, end in pairwise(ends)):
            raise InputError(
                f"expected --restart_epochs to ascend, and to be below --epochs {self.epochs}; got "
                f"{self.restart_epochs}; for none, --restart_epochs null"
            )
        if self.label_repeats > 1 and self.labels is None:
            raise InputError(f"--label_repeats: expected --labels too; got {self.label_repeats}")
