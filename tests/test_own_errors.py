"""Errors in the user's own classes: one line with the piece, the file and the line."""

import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import pyro
import pyro.distributions as dist
import pytest
import torch
from tiny_runs import OPTIONS, exit_code

import ppl_vae.fit
from guides import DiagonalNormal
from models import VAE, Domain, Likelihood, Network, Prior
from ppl_vae.data import DataSet, Digits
from ppl_vae.errors import InputError
from ppl_vae.fit import fit
from ppl_vae.objectives import ELBO, Objective

HERE = "test_own_errors.py"


@pytest.fixture(autouse=True)
def _named(monkeypatch: pytest.MonkeyPatch, no_pictures: None, empty_folder: Path) -> None:
    """These classes under a module name, and nothing else in the folder."""
    monkeypatch.setitem(sys.modules, "classes_of_own_errors", sys.modules[__name__])


class MissingKey(DiagonalNormal):
    def posterior(self, x):
        return {}["missing"]  # raised


class ConstructorFails(DiagonalNormal):
    def __init__(self, spec, network=VAE) -> None:
        super().__init__(spec)
        self.size = spec.size  # raised


class Adds(Network):
    def __init__(self, inputs, outputs, hidden: Sequence[int] = ()) -> None:
        super().__init__(inputs, outputs)

    def compute(self, x):
        return x + "1"  # raised


class AddsInDecoder(Adds):
    def compute(self, x):
        scores = x.flatten(1).sum(1)
        if x.dim() == 4:
            return scores[:, None].expand(-1, 4)
        return scores / "2"  # raised


class NoLoc(Prior):
    def forward(self):
        return dist.Normal(self.loc, 1).to_event(1)  # raised


class LossFails(Objective):
    def loss(self, model, guide, x):
        return model.nothing  # raised


class LoadFails(DataSet):
    default_domain: ClassVar[Domain] = "binary"

    def load(self, domain, seed):
        return open("nowhere.npy")  # raised


class ForwardFails(VAE):
    def forward(self, x=None, size=1):
        raise KeyError("z")  # raised


def line_of(cls: type) -> int:
    lines, first = inspect.getsourcelines(cls)
    return first + next(place for place, line in enumerate(lines) if "# raised" in line)


@pytest.mark.parametrize(
    ("option", "cls", "piece", "said"),
    [
        ("guide", MissingKey, "guide MissingKey", "KeyError: 'missing'"),
        ("guide", ConstructorFails, "guide ConstructorFails", "has no attribute 'size'"),
        ("network", Adds, "encoder Adds", "TypeError: unsupported operand"),
        ("network", AddsInDecoder, "decoder AddsInDecoder", "TypeError: unsupported operand"),
        ("prior", NoLoc, "prior NoLoc", "AttributeError: 'NoLoc' object has no attribute 'loc'"),
        ("objective", LossFails, "objective LossFails", "AttributeError"),
        ("data", LoadFails, "data LoadFails", "FileNotFoundError"),
        ("model", ForwardFails, "model ForwardFails", "KeyError: 'z'"),
    ],
)
def test_an_error_names_the_piece_the_file_and_the_line(
    fit_refuses: Callable[..., str], option: str, cls: type, piece: str, said: str
) -> None:
    line = fit_refuses([f"--{option}", f"classes_of_own_errors.{cls.__name__}"], said)
    assert line.startswith(f"error: {piece}, ")
    assert f"{HERE}, line {line_of(cls)}: " in line
    assert line.endswith("; --traceback true shows the whole traceback")


class Misshapen(DiagonalNormal):
    def posterior(self, x):
        return super().posterior(x @ torch.zeros(7, 3))  # raised


class NegativeScale(DiagonalNormal):
    def posterior(self, x):
        return dist.Normal(super().posterior(x).mean, -torch.ones(len(x), 2)).to_event(1)  # raised


@pytest.mark.parametrize("cls", [Misshapen, NegativeScale])
def test_a_refusal_by_a_library_names_them_too(fit_refuses: Callable[..., str], cls: type) -> None:
    line = fit_refuses(
        ["--guide", f"classes_of_own_errors.{cls.__name__}"],
        f"VAE with guide {cls.__name__} does not run on images (1, 8, 8): ",
        f"{HERE}, line {line_of(cls)})",
    )
    assert len(line) < 400  # and no scale of each image in the batch
    assert cls is Misshapen or "found invalid values, such as -1 (guide" in line


class NoPlate(DiagonalNormal):
    def forward(self, x):
        return pyro.sample("z", self.posterior(x))


class ModelWithoutPlate(VAE):
    def forward(self, x=None, size=1):
        z = pyro.sample("z", self.prior().expand([size if x is None else len(x)]))
        return pyro.sample("x", self.decode(z), obs=x)


class Pointless(DiagonalNormal):
    def posterior(self, x):
        pass


class ReturnsTensor(Likelihood):
    domain = "real"

    @property
    def features(self):
        return self.spec.image_shape

    def forward(self, features):
        return features


class GreyDomain(ReturnsTensor):
    domain = "grey"


class NoDomain(Likelihood):
    features = ReturnsTensor.features
    forward = ReturnsTensor.forward


class BadFeatures(ReturnsTensor):
    @property
    def features(self):
        return self.spec.size


class TensorPrior(Prior):
    def forward(self):
        return torch.zeros(self.spec.latent_dim)


class PriorWithoutEvent(Prior):
    def forward(self):
        return dist.Normal(torch.zeros(self.spec.latent_dim), 1)


class LikelihoodWithoutEvent(ReturnsTensor):
    def forward(self, features):
        return dist.Normal(features, 1)


class GuideWithoutEvent(DiagonalNormal):
    def posterior(self, x):
        return super().posterior(x).base_dist


class WrongSize(Network):
    def __init__(self, inputs, outputs, hidden: Sequence[int] = ()) -> None:
        super().__init__(inputs, outputs)
        self.layer = torch.nn.Linear(inputs[-1], 3)

    def compute(self, x):
        return self.layer(x.flatten(1)[:, : self.inputs[-1]])


class AlwaysNan(Objective):
    def loss(self, model, guide, x):
        return ELBO().loss(model, guide, x) * torch.nan


class WithoutGradient(Objective):
    def loss(self, model, guide, x):
        with torch.no_grad():
            return ELBO().loss(model, guide, x)


class PerImage(Objective):
    def loss(self, model, guide, x):
        return x.flatten(1).mean(1) * next(guide.parameters()).sum()


class LoadsTensor(DataSet):
    default_domain: ClassVar[Domain] = "binary"

    def load(self, domain, seed):
        return torch.zeros(10, 1, 8, 8)


class LoadsOther(LoadsTensor):
    def load(self, domain, seed):
        return Digits().load("real", seed)


class GreyByDefault(LoadsTensor):
    default_domain = "grey"


@pytest.mark.parametrize(
    ("option", "cls", "said"),
    [
        ("guide", NoPlate, "site 'z' of the guide is in no plate"),
        ("model", ModelWithoutPlate, "site 'z' of the model is in no plate"),
        ("guide", Pointless, "distribution at site 'z' of the guide; got None"),
        ("likelihood", ReturnsTensor, "distribution at site 'x' of the model; got Tensor"),
        ("prior", TensorPrior, "site 'z' of the model; got Tensor from prior TensorPrior"),
        ("prior", PriorWithoutEvent, "from prior PriorWithoutEvent; end it with .to_event(1)"),
        ("guide", GuideWithoutEvent, "from guide GuideWithoutEvent; end it with .to_event(1)"),
        (
            "likelihood",
            LikelihoodWithoutEvent,
            "for each of 100 images at site 'x' of the model; got 8 at dim -1 from likelihood "
            "LikelihoodWithoutEvent; end it with .to_event(3)",
        ),
        ("network", WrongSize, "return the values of (100, 4); got (100, 3) (encoder WrongSize, "),
        ("likelihood", GreyDomain, "domain as one of binary, unit, bytes, real; got 'grey'"),
        ("likelihood", NoDomain, "domain as one of binary, unit, bytes, real; got None"),
        ("likelihood", BadFeatures, f"likelihood BadFeatures, {Path(__file__)}: AttributeError"),
        ("objective", WithoutGradient, "its loss has no gradient"),
        (
            "objective",
            AlwaysNan,
            "objective AlwaysNan: expected a finite loss before training; got",
        ),
        ("objective", PerImage, "its loss as a scalar tensor; got one of shape (97,)"),
        ("data", LoadsTensor, "expected load to return ppl_vae.data.Data; got Tensor"),
        ("data", LoadsOther, "data of the domain binary, which it was asked for; got real"),
        ("data", GreyByDefault, "its default_domain as one of binary"),
    ],
)
def test_a_piece_that_breaks_its_contract(
    fit_refuses: Callable[..., str], option: str, cls: type, said: str
) -> None:
    fit_refuses([f"--{option}", f"classes_of_own_errors.{cls.__name__}"], said)


@pytest.mark.parametrize(
    ("text", "said"),
    [("x = 1\n1 / 0\n", "ZeroDivisionError in"), ("x = 1\nx = = 2\n", "SyntaxError in")],
)
def test_a_module_that_cannot_be_imported(
    fit_refuses: Callable[..., str], monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    Path("unsound.py").write_text(text)
    monkeypatch.syspath_prepend(Path.cwd())
    fit_refuses(["--guide", "unsound.Guide"], said, "unsound.py, line 2: ", "mend the module")


@pytest.mark.parametrize("cls", [MissingKey, NoPlate])
@pytest.mark.parametrize("how", ["option", "option=", "environment"])
def test_the_whole_traceback_on_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cls: type, how: str
) -> None:
    asked = {"option": ["--traceback", "true"], "option=": ["--traceback=true"]}.get(how, [])
    if how == "environment":
        monkeypatch.setenv("PPL_VAE_TRACEBACK", "1")
    guide = ["--guide", f"classes_of_own_errors.{cls.__name__}"]
    assert exit_code(ppl_vae.fit, *OPTIONS, *guide, *asked) == 2
    said = capsys.readouterr().err
    assert "Traceback (most recent call last)" in said
    assert said.splitlines()[-1].startswith("error: ")
    if cls is MissingKey:
        assert 'return {}["missing"]  # raised' in said
    assert exit_code(ppl_vae.fit, *OPTIONS, "--traceback", "maybe") == 2
    assert "error: --traceback: expected true or false; got maybe" in capsys.readouterr().err


def test_in_python_the_exception_is_the_users_own() -> None:
    with pytest.raises(KeyError, match="missing") as raised:
        fit(guide=MissingKey)
    place = f"guide MissingKey, {Path(__file__)}, line {line_of(MissingKey)}"
    assert raised.value.__notes__ == [f"{place}: KeyError: 'missing'"]
    with pytest.raises(InputError, match=r"in no plate") as caught:
        fit(guide=NoPlate)
    assert "\n" not in str(caught.value)
    assert not Path("runs").exists()
