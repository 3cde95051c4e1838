"""Encoder and decoder of a run as files for other programs: ONNX and `torch.export`."""

import copy
import importlib.util
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from models import Spec
from ppl_vae.data import Facts
from ppl_vae.errors import InputError, as_path, reason
from ppl_vae.machine.files import whole_file, whole_folder
from ppl_vae.machine.progress import Progress
from ppl_vae.pairs.calls import called_anywhere
from ppl_vae.runs.directory import write_json

if TYPE_CHECKING:
    from ppl_vae.runs.run import Run

__all__ = ["DESCRIPTION", "export", "pixel_rule"]

DESCRIPTION = "export.json"

_TOLERANCE = 1e-4  # relative, between a program and the pair: float32 sums in another order
_VALUES = {
    "binary": "0 or 1",
    "unit": "real numbers of 0 to 1",
    "bytes": "whole numbers of 0 to 255",
    "real": "real numbers",
}


@dataclass(frozen=True)
class _Part:
    """A function of tensors that becomes one program.

    Attributes:
        function: To the outputs by name.
        program: The module whose parameters it has.
        inputs: By name, of some images.
    """

    function: Callable[..., dict[str, Tensor]]
    program: nn.Module
    inputs: Callable[[int], dict[str, Tensor]]


class _Outputs(nn.Module):
    """A part as the module that torch and ONNX want: tensors in, tensors out."""

    def __init__(self, part: _Part) -> None:
        super().__init__()
        self.program = part.program
        self.function = part.function

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.function(*inputs).values())


@called_anywhere
def export(run: "Run", folder: Path | str) -> list[Path]:
    """Writes encoder and decoder as ONNX and as `torch.export` programs, with any batch size.

    - encoder: x (B, C, H, W) in the domain of the run to `mean` (B, D), E[z|x], and where q(z|x) is
      a diagonal normal its standard deviation `scale` (B, D);
    - decoder: z (B, D) to `mean` (B, C, H, W), E[x|z], and where p(x|z) is normal its `scale`;
    - classifier: x to `log_probability` (B, classes), log q(y|x), where the guide has one.

    Under a model of labelled images encoder and decoder take classes y (B,), int64, as well. All
    other tensors are float32. `export.json` has the names, shapes and domains, and how pixels
    become x. Each program is compared with the pair before anything is written.

    Args:
        run: The run.
        folder: Where to; it appears with all files or not at all.

    Returns:
        The files: a .pt2 and an .onnx of each, and export.json.

    Raises:
        InputError: If the folder has files already or cannot be written, the packages for ONNX are
            missing, or q(z|x) or p(x|z) has no mean in closed form.
    """
    folder = as_path("the folder to export to", folder)
    _check_packages()
    parts = _parts(run)
    programs, files = {}, len(parts) * 2
    with (
        whole_folder(folder) as unfinished,
        Progress(f"exporting {run.path}", files, "files") as progress,
        pyro.validation_enabled(False),  # whose checks read numbers, which no graph can do
        torch.no_grad(),
    ):
        for name, part in parts.items():
            example = part.inputs(2)
            outputs = list(part.function(*example.values()))
            program = _program(name, part, example)
            with whole_file(unfinished / f"{name}.pt2") as file:
                torch.export.save(program, file)
            progress.advance(1, f"{name}.pt2")
            with whole_file(unfinished / f"{name}.onnx") as file:
                file.write(_onnx(name, program, list(example), outputs))
            progress.advance(1, f"{name}.onnx")
            programs[name] = _described(part)
        write_json(unfinished / DESCRIPTION, _description(run) | {"programs": programs})
    names = [f"{name}.{suffix}" for name in parts for suffix in ("pt2", "onnx")]
    return [folder / name for name in (*names, DESCRIPTION)]


def _check_packages() -> None:
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise InputError(
                f"export needs the package {package}: pip install 'ppl-vae[export]' installs it"
            )


def _parts(run: "Run") -> dict[str, _Part]:
    """What is exported, by name, on the CPU."""
    model, guide = copy.deepcopy((run.model, run.guide))
    for program in (model, guide):
        program.cpu().eval()
    spec, labelled = run.spec, model.labelled

    def images(count: int) -> dict[str, Tensor]:
        return {"x": torch.rand(count, *spec.image_shape).round()}  # in every domain

    def latents(count: int) -> dict[str, Tensor]:
        return {"z": torch.randn(count, model.code_dim)}

    def with_classes(inputs: Callable[[int], dict[str, Tensor]]) -> Callable[[int], Any]:
        def both(count: int) -> dict[str, Tensor]:
            return inputs(count) | {"y": torch.arange(count) % spec.classes}

        return both if labelled else inputs

    parts = {
        "encoder": _Part(
            lambda *batch: _moments(guide.posterior(*batch), "q(z|x)"), guide, with_classes(images)
        ),
        "decoder": _Part(
            lambda *batch: _moments(model.decode(*batch), "p(x|z)"), model, with_classes(latents)
        ),
    }
    if labelled and model.enumerated:
        parts["classifier"] = _Part(
            lambda x: {"log_probability": guide.classify(x).logits}, guide, images
        )
    for name, part in parts.items():
        try:
            with torch.no_grad(), pyro.validation_enabled(False):
                part.function(*part.inputs(2).values())
        except NotImplementedError as error:
            raise InputError(
                f"{run.path}: the {name} cannot be exported: {reason(error)}; a run with another "
                f"{'likelihood' if name == 'decoder' else 'guide'}, such as "
                f"{'Bernoulli' if name == 'decoder' else 'DiagonalNormal'}, can"
            ) from error
    return parts


def _moments(distribution: TorchDistribution, name: str) -> dict[str, Tensor]:
    """The mean, and where all entries are independent normals their standard deviation."""
    base: Any = distribution
    while isinstance(base, dist.Independent):
        base = base.base_dist
    try:
        mean = base.mean
    except NotImplementedError as error:
        raise NotImplementedError(
            f"the mean of {name}, a {type(base).__name__}, has no closed form"
        ) from error
    return {"mean": mean, "scale": base.stddev} if isinstance(base, dist.Normal) else {"mean": mean}


def _program(name: str, part: _Part, example: dict[str, Tensor]) -> torch.export.ExportedProgram:
    """A part as a graph for any number of images, compared with it on another number."""
    batch = torch.export.Dim("batch")
    module = _Outputs(part).eval()
    try:
        program = torch.export.export(
            module, tuple(example.values()), dynamic_shapes=(({0: batch},) * len(example),)
        )
    except Exception as error:  # which of torch's it is depends on what the pair computes
        raise InputError(f"the {name} cannot be exported as one graph: {_first(error)}") from error
    other = tuple(part.inputs(3).values())
    for expected, got in zip(module(*other), program.module()(*other), strict=True):
        if not torch.allclose(expected, got, _TOLERANCE, _TOLERANCE * float(expected.abs().max())):
            raise InputError(
                f"the {name} cannot be exported: its graph gives other numbers than the pair, as "
                "where a pair draws or keeps state"
            )
    return program


def _onnx(
    name: str, program: torch.export.ExportedProgram, inputs: list[str], outputs: list[str]
) -> bytes:
    try:
        with warnings.catch_warnings(action="ignore"):  # which are about torch's own code
            made: Any = torch.onnx.export(
                program, dynamo=True, input_names=inputs, output_names=outputs, verbose=False
            )
    except torch.onnx.OnnxExporterError as error:
        raise InputError(f"the {name} has no form in ONNX: {_first(error)}") from error
    return made.model_proto.SerializeToString()


def _first(error: Exception) -> str:
    return reason(error).partition(". ")[0]


def _described(part: _Part) -> dict[str, Any]:
    """Names, shapes and types of what goes in and comes out."""
    inputs = part.inputs(2)
    outputs = part.function(*inputs.values())

    def listed(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        return {
            name: {"shape": ["batch", *tensor.shape[1:]], "type": str(tensor.dtype)[6:]}
            for name, tensor in tensors.items()
        }

    return {"inputs": listed(inputs), "outputs": listed(outputs)}


def _description(run: "Run") -> dict[str, Any]:
    spec: Spec = run.spec
    try:
        pixels = pixel_rule(run.facts)
    except InputError as error:  # the programs do without the data
        pixels = {"not_known": str(error)}
    return {
        "run": str(run.path),
        "model": type(run.model).__name__,
        "guide": type(run.guide).__name__,
        "image_shape": list(spec.image_shape),
        "latent_dim": spec.latent_dim,
        "classes": spec.classes,
        "domain": spec.domain,
        "values_of_x": _VALUES[spec.domain] + (", or NaN where missing" if spec.holes else ""),
        "from_pixels_v": pixels,
    }


def pixel_rule(data: Facts) -> dict[str, Any]:
    """How pixels v of a data set become x, as the run was trained: L and a rule.

    Args:
        data: The facts of a run's data.
    """
    levels, top = data.levels, (data.levels or 2) - 1
    if data.moments:
        mean, deviation = data.moments
        rule = f"x = (v - {mean!r}) / {deviation!r}"
    elif data.binarize in ("dynamic", "fixed"):
        rule = f"x = 1 with probability v / {top}, else 0; without chance, 1 where v >= {top / 2:g}"
    elif data.binarize == "threshold":
        rule = f"x = 1 where v >= {0.5 if levels is None else levels // 2:g}, else 0"
    elif data.dequantize == "uniform":
        rule = f"x = (v + u) / {levels}, u uniform on [0, 1); without chance, u = 1/2"
    elif data.domain == "bytes" and levels != 256:
        rule = f"x = 255 v / {top}, rounded"
    else:
        rule = f"x = v / {top}" if top > 1 and data.domain in ("unit", "real") else "x = v"
    return {"levels": levels, "rule": rule}
