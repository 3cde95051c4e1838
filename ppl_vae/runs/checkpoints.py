"""Checkpoints: tensors and plain data in one safetensors file, written whole, read safely."""

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ppl_vae.errors import InputError, reason
from ppl_vae.machine.files import whole_file

__all__ = [
    "BEST",
    "LAST",
    "load_parameters",
    "random_state",
    "read_checkpoint",
    "restore_random_state",
    "write_checkpoint",
]

LAST = "checkpoint.safetensors"
BEST = "best.safetensors"

_FORMAT = "ppl-vae checkpoint"
_VERSION = 1


def write_checkpoint(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Writes tensors, on any device, and a JSON-serialisable state, with a digest of both.

    Raises:
        OSError: If it cannot be written; the old file stays.
    """
    # Copies, because a model and a guide may share modules and the format refuses shared memory.
    tensors = {
        name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()
    }
    text = json.dumps(state)
    header = {
        "format": _FORMAT,
        "version": str(_VERSION),
        "state": text,
        "sha256": _digest(tensors, text),
    }
    with whole_file(path) as file:
        file.write(safetensors.torch.save(tensors, metadata=header))


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads a file of `write_checkpoint`; executes nothing.

    Returns:
        The tensors, on the CPU, and the state.

    Raises:
        InputError: If the file is missing, truncated, damaged, foreign or of another version.
    """
    remedy = "restore the file from a copy, or train again"
    if not path.is_file():
        raise InputError(f"{path}: expected a checkpoint; there is no such file")
    identity = _identity(path)
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        raise InputError(
            f"{path} is truncated or no safetensors file ({error}); {remedy}"
        ) from error
    if header.get("format") != _FORMAT:
        raise InputError(
            f"{path} was not written by ppl-vae: expected format {_FORMAT!r}; {remedy}"
        )
    if header.get("version") != str(_VERSION):
        raise InputError(
            f"{path} is a checkpoint of version {header.get('version')}; "
            f"this program reads version {_VERSION}: use the release that wrote it"
        )
    if header.get("sha256") != _digest(tensors, header.get("state", "")):
        # safetensors opens the path twice, and a training may replace the file in between.
        if _identity(path) != identity:
            return read_checkpoint(path)
        raise InputError(f"{path} is damaged: its content does not match its digest; {remedy}")
    return tensors, json.loads(header["state"])


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def _digest(tensors: dict[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def random_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The states of torch's, NumPy's and Python's global generators, as tensors and plain data."""
    tensors = {"random.cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    tensors["random.numpy"] = torch.from_numpy(np.asarray(keys, dtype=np.int64))
    return tensors, {
        "numpy": [kind, position, has_gauss, cached],
        "python": list(random.getstate()),
    }


def restore_random_state(tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Puts the generators back into the state that `random_state` returned."""
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    kind, position, has_gauss, cached = state["numpy"]
    keys = tensors["random.numpy"].numpy().astype(np.uint32)
    np.random.set_state((kind, keys, position, has_gauss, cached))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


def load_parameters(pair: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Copies a checkpoint's parameters and buffers into a pair.

    Raises:
        InputError: If they are not those of this pair.
    """
    own = {k: v for k, v in tensors.items() if k.startswith(("model.", "guide."))}
    try:
        pair.load_state_dict(own)
    except RuntimeError as error:
        raise InputError(
            f"{path} is not a checkpoint of the pair in config.yaml: {reason(error)}"
        ) from error
