"""Every option of every piece refuses what is out of its range, at construction and by its name."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import inf, nan
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

import pytest

from guides import (
    IAF,
    Bidirectional,
    BottomUp,
    ConditionalNormal,
    Ladder,
    SemiAmortized,
    SemiSupervisedNormal,
)
from models import (
    MLP,
    VAE,
    Convolutional,
    Flow,
    GatedMLP,
    Gaussian,
    Hierarchical,
    MaxPooling,
    Mixture,
    MixtureOfNormals,
    Network,
    Residual,
    Spec,
    TopDown,
    VampPrior,
)
from models.feature_maps import Groups
from models.ranges import check_choice, check_count, check_flag, check_number, check_sizes
from ppl_vae.data import EMNIST, Arrays, Digits, ImageFolder
from ppl_vae.objectives import (
    ELBO,
    IWAE,
    MMD,
    Beta,
    Renyi,
    ScoreFunction,
    SemiSupervisedELBO,
    WakeSleep,
)
from ppl_vae.pairs.pieces import ROLES, is_outside, options_of, subclasses

IMAGE = (1, 8, 8)
REAL, LABELLED = Spec(IMAGE, "real", 3), Spec(IMAGE, "binary", 3, classes=10)

# The models of guides for several latent sites.
MODELS: dict[type, Any] = {Bidirectional: TopDown, BottomUp: Hierarchical, Ladder: Hierarchical}

# What no option of a type takes, whatever its bounds are.
WRONG: dict[Any, list[Any]] = {
    int: [-1, 2.5, nan, inf, True, "2", None, []],
    float: [nan, inf, -inf, True, "1", None, []],
    bool: [0, 1, "false", None],
    Path: [5, None, ""],
    Sequence: [5, 2.5, "abc", None, [2.5], [nan], [True], [0], [-1], {}],
    Groups: [5, 2.5, "abc", [2.5], [nan], [True], [0], [[]], [[1]], [[0, 1]], [[1, -1]], {}],
    Sequence[int | str]: [5, 2.5, "abc", [2.5], [nan], [True], [None], [[]], {}],
    Literal: ["nonsense", "", None, 1, []],
}


def options() -> Iterator[Any]:
    for base in ROLES.values():
        for cls in subclasses(base):
            if is_outside(f"{cls.__module__}."):
                continue
            for name, parameter in options_of(cls).items():
                if name in ROLES or parameter.annotation is str:
                    continue
                yield pytest.param(cls, name, parameter.annotation, id=f"{cls.__name__}.{name}")


def build(cls: Any, **chosen: Any) -> None:
    if issubclass(cls, Network):
        cls(IMAGE, (3,), **chosen)
        return
    available: dict[str, Any] = {}
    parameters = inspect.signature(cls).parameters
    if "spec" in parameters:
        spec = Spec(IMAGE, getattr(cls, "domain", "binary"), latent_dim=3, classes=10)
        available["spec"] = spec
    if "model" in parameters:
        available["model"] = MODELS.get(cls, VAE)(spec)
    required = [n for n, p in options_of(cls).items() if p.default is inspect.Parameter.empty]
    cls(**available, **{**dict.fromkeys(required, "images.npy"), **chosen})


@pytest.mark.parametrize(("cls", "name", "annotation"), list(options()))
def test_every_option_refuses_what_it_cannot_be(cls: Any, name: str, annotation: Any) -> None:
    build(cls)
    kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    kind = kinds[0]
    values = WRONG[kind if kind in WRONG else get_origin(kind)]
    for value in values:
        if value is None and type(None) in kinds:
            continue
        with pytest.raises(ValueError, match=rf"expected .*\b{name}\b.*; got ") as refusal:
            build(cls, **{name: value})
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("value", [5, "DiagonalNormal", None])
def test_a_guide_inside_another_is_a_class(value: Any) -> None:
    with pytest.raises(ValueError, match="expected guide, the class of another guide; got "):
        build(SemiAmortized, guide=value)


# Where the bound is not that of the type, or depends on another option.
BOUNDS: list[tuple[Callable[[], Any], str]] = [
    (partial(Digits, binarize="dynmic"), r"--data\.binarize of auto, none, dynamic.*'dynmic'"),
    (partial(EMNIST, split="all"), r"--data\.split of balanced, .*; got 'all'"),
    (partial(Arrays, "x", scale="sd"), r"--data\.scale of auto, none, standard; got 'sd'"),
    *(
        (partial(kind, "x", memory_gib=-1.0), r"--data\.memory_gib >= 0; got -1\.0")
        for kind in (Arrays, ImageFolder)
    ),
    (partial(ImageFolder, "x", rules=4), r"--data\.rules >= 1 and <= 3; got 4"),
    *(
        (partial(objective, particles=0), "expected particles >= 1; got 0")
        for objective in (ELBO, IWAE, Renyi, Beta, WakeSleep, SemiSupervisedELBO)
    ),
    (partial(SemiSupervisedELBO, alpha=-1.0), r"expected alpha >= 0; got -1\.0"),
    (partial(IWAE, gradient="x"), "expected gradient of plain, stl, dreg; got 'x'"),
    (partial(Beta, beta=-1.0), r"expected beta >= 0; got -1\.0"),
    (partial(Beta, beta=nan), "expected beta >= 0, a finite number; got nan"),
    (partial(Beta, warmup_epochs=-1.0), r"expected warmup_epochs >= 0; got -1\.0"),
    (partial(Beta, cycle_epochs=5.0), r"above 0 and at most cycle_epochs 5\.0; got 0\.0"),
    (partial(Beta, cycle_epochs=5.0, warmup_epochs=6.0), r"cycle_epochs 5\.0; got 6\.0"),
    (partial(Beta, free_bits=-0.1), r"expected free_bits >= 0; got -0\.1"),
    (partial(MMD, weight=-1.0), r"expected weight >= 0; got -1\.0"),
    (partial(MMD, alpha=1.5), r"expected alpha <= 1; got 1\.5"),
    (partial(MMD, alpha=-inf), "expected alpha <= 1, a finite number; got -inf"),
    (partial(MMD, kernel="cubic"), "kernel of normal, inverse_multiquadratic; got 'cubic'"),
    (partial(MMD, bandwidth=0.0), r"expected bandwidth > 0; got 0\.0"),
    (partial(ScoreFunction, particles=1), "particles >= 2 with baseline leave_one_out; got 1"),
    (partial(ScoreFunction, baseline="none", particles=0), "expected particles >= 1; got 0"),
    (partial(ScoreFunction, baseline="x"), "baseline of none, leave_one_out; got 'x'"),
    (partial(Gaussian, REAL, "image"), "expected scale of shared, pixel, network; got 'image'"),
    (partial(Gaussian, REAL, floor=0.0), r"expected floor > 0; got 0\.0"),
    (partial(Gaussian, REAL, floor=nan), "expected floor > 0, a finite number; got nan"),
    (partial(Gaussian, REAL, initial_scale=1e-3), r"initial_scale > 0\.001; got 0\.001"),
    (partial(Gaussian, REAL, floor=0.2), r"expected initial_scale > 0\.2; got 0\.1"),
    (partial(Flow, REAL, flows=0), "expected flows >= 1; got 0"),
    (partial(Flow, REAL, hidden=(2,)), r"at least latent_dim = 3 units.* got \[2\]"),
    (partial(IAF, REAL, flows=0), "expected flows >= 1; got 0"),
    (partial(IAF, REAL, context=0), "expected context >= 1; got 0"),
    (partial(IAF, REAL, hidden=()), r"at least latent_dim = 3 units.* got \[\]"),
    (partial(IAF, REAL, hidden=(8, 2)), r"at least latent_dim = 3 units.* got \[8, 2\]"),
    (partial(IAF, REAL, hidden=(0,)), r"expected hidden of sizes >= 1; got \[0\]"),
    (partial(MixtureOfNormals, REAL, 0), "expected components >= 1; got 0"),
    (partial(VampPrior, REAL, 0), "expected components >= 1; got 0"),
    (partial(Mixture, REAL, components=1), "expected components >= 2; got 1"),
    (partial(Hierarchical, REAL, top_dim=0), "expected top_dim >= 1; got 0"),
    (partial(Hierarchical, REAL, MixtureOfNormals(REAL)), "prior of dimension top_dim = 1; got 3"),
    (partial(Ladder, REAL, VAE(REAL)), "two layers, such as Hierarchical; got VAE"),
    (partial(Ladder, REAL, Hierarchical(REAL), features=0), "expected features >= 1; got 0"),
    (partial(BottomUp, REAL, VAE(REAL)), "two layers, such as Hierarchical; got VAE"),
    (partial(ConditionalNormal, LABELLED, features=0), "expected features >= 1; got 0"),
    (partial(SemiSupervisedNormal, LABELLED, features=0), "expected features >= 1; got 0"),
    (partial(SemiAmortized, REAL, VAE(REAL), steps=-1), "expected steps >= 0; got -1"),
    (partial(SemiAmortized, REAL, VAE(REAL), step_size=0.0), r"expected step_size > 0; got 0\.0"),
    (partial(SemiAmortized, REAL, VAE(REAL), max_norm=-1.0), r"expected max_norm > 0; got -1\.0"),
    (partial(SemiAmortized, REAL, VAE(REAL), particles=0), "expected particles >= 1; got 0"),
    (partial(SemiAmortized, REAL, Hierarchical(REAL)), "Hierarchical has z2, z1"),
    (partial(SemiAmortized, REAL, VAE(REAL), guide=Ladder), "such as Hierarchical; got VAE"),
    (partial(MLP, IMAGE, (3,), hidden=(5, 0)), r"expected hidden of sizes >= 1; got \[5, 0\]"),
    (partial(GatedMLP, IMAGE, (3,), hidden=(5, 0)), r"expected hidden of sizes >= 1; got \[5, 0\]"),
    (partial(MLP, IMAGE, (3,), activation="cosine"), "activation of tanh, relu, .*; got 'cosine'"),
    (partial(MaxPooling, IMAGE, (3,)), "among 16, 28, 40, 52, 64, .* got 8 x 8"),
    (partial(MaxPooling, (1, 28, 20), (32,)), "among 16, 28, 40, 52, 64, .* got 28 x 20"),
    (partial(MaxPooling, (3,), (1, 4, 4)), "among 16, 28, 40, 52, 64, .* got 4 x 4"),
    (partial(Residual, IMAGE, (3,), blocks=0), "expected blocks >= 1; got 0"),
    (partial(Convolutional, IMAGE, (3,), kernel_size=4), "expected an odd kernel_size >= 1; got 4"),
    (partial(Convolutional, IMAGE, (3,), kernel_size=-1), "expected kernel_size >= 1; got -1"),
    (partial(Convolutional, IMAGE, (3,), stride=0), "expected stride >= 1; got 0"),
    *(
        (partial(network, *shapes), r"expected an image \(C, H, W\) on one side .*; got")
        for network in (Convolutional, Residual, MaxPooling)
        for shapes in (((3,), (4,)), (IMAGE, IMAGE))
    ),
    *(
        (partial(network, IMAGE, (3,), **options), said)
        for network in (Convolutional, Residual)
        for options, said in (
            ({"channels": ()}, "expected channels of at least 1 size"),
            ({"channels": (4, -1)}, r"expected channels of sizes >= 1; got \[4, -1\]"),
            ({"hidden": 0}, "expected hidden >= 1; got 0"),
            ({"activation": "cosine"}, "expected activation of tanh"),
        )
    ),
]


@pytest.mark.parametrize(("piece", "said"), BOUNDS)
def test_bounds_of_pieces(piece: Callable[[], Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        piece()


def test_bounds() -> None:
    for allowed in (2, 3, 10**9):
        check_count("steps", allowed, least=2)
    for value in (1, 0, -1):
        with pytest.raises(ValueError, match=f"^expected steps >= 2; got {value}$"):
            check_count("steps", value, least=2)
    check_number("weight", 1e-9, above=0)
    check_number("weight", 0, least=0, most=1)
    check_number("weight", 1, least=0, most=1)
    check_number("weight", -1e9)
    with pytest.raises(ValueError, match=r"^expected weight > 0; got 0\.0$"):
        check_number("weight", 0.0, above=0)
    with pytest.raises(ValueError, match=r"^expected weight >= 0 and <= 1; got 1\.5$"):
        check_number("weight", 1.5, least=0, most=1)
    with pytest.raises(ValueError, match=r"^expected weight > 0, a finite number; got inf$"):
        check_number("weight", inf, above=0)


def test_choices_flags_and_sizes() -> None:
    check_choice("kernel", "a", ("a", "b"))
    with pytest.raises(ValueError, match=r"^expected kernel of a, b; got 'c'$"):
        check_choice("kernel", "c", ("a", "b"))
    check_flag("download", False)
    with pytest.raises(ValueError, match=r"^expected download of True, False; got 'false'$"):
        check_flag("download", "false")
    check_sizes("hidden", ())
    check_sizes("hidden", [1, 500], fewest=2)
    with pytest.raises(ValueError, match=r"^expected hidden of sizes >= 1; got \[500, 0\]$"):
        check_sizes("hidden", (500, 0))
    with pytest.raises(ValueError, match=r"^expected hidden of at least 1 size\(s\); got \[\]$"):
        check_sizes("hidden", [], fewest=1)
