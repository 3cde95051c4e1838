"""Where a verb writes, looked at before the work; and numbers that a full disk does not lose."""

import csv
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from torch import Tensor

from ppl_vae.data import DataSet, Split
from ppl_vae.errors import as_path
from ppl_vae.machine.files import check_writable, whole_file
from ppl_vae.runs.directory import write_json

__all__ = ["ending_of", "plain", "writable", "write_numbers", "write_scores"]


def ending_of(split: str, data: Any = None) -> str:
    """What the names of result files end in, so that those of other images stay.

    Args:
        split: The images that were measured.
        data: The data set, or the images, where they are not the run's own.

    Returns:
        Nothing for the test images of the run, else such as `-train` or `-ImageFolder-cats`.
    """
    parts = []
    if isinstance(data, DataSet):
        place = getattr(data, "path", None)
        parts = [type(data).__name__, *([Path(place).expanduser().resolve().stem] if place else [])]
    elif data is not None:
        parts = ["images"]
    if split != ("test" if data is None else "all"):
        parts.append(split)
    return "".join("-" + re.sub(r"[^\w.]+", "_", part) for part in parts)


def writable(folder: Path | str) -> Path:
    """The folder, made if missing; raises an InputError if no file can be written there."""
    folder = as_path("--out", folder)
    check_writable(folder, "name another folder with --out", make=True)
    return folder


def write_numbers(path: Path, numbers: dict[str, Any]) -> None:
    """Writes JSON; where that fails, the numbers go to standard output, so that they are not lost.

    Raises:
        OSError: If the file cannot be written.
    """
    try:
        write_json(path, numbers)
    except OSError:
        print(json.dumps(numbers, indent=2, allow_nan=False))
        raise


def plain(value: Any) -> Any:
    """JSON has no infinity and no NaN: null."""
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def write_scores(
    path: Path, images: Split, class_names: Sequence[str] | None, scores: Mapping[str, Tensor]
) -> None:
    """Writes one line for each image: its file or its index, its label, its scores, every digit.

    Args:
        path: The CSV file.
        images: N images.
        class_names: Of their labels 0, 1, ..., where they are known; an unknown label is empty.
        scores: (N,) each, by the names of their columns.

    Raises:
        OSError: If the file cannot be written.
    """
    count = len(images)
    names = range(count) if images.names is None else map(os.fsdecode, images.names.tolist())
    numbers = [-1] * count if images.labels is None else images.labels.tolist()
    labels = ["" if n < 0 else class_names[n] if class_names else n for n in numbers]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "label", *scores])
    columns = (values.tolist() for values in scores.values())
    writer.writerows(zip(names, labels, *columns, strict=True))
    with whole_file(path) as file:
        file.write(text.getvalue().encode(errors="surrogateescape"))
