"""The groups of picture files, as a CSV file lists them."""

import csv
import os
from pathlib import Path

from ppl_vae.data.picture_files import Files
from ppl_vae.errors import InputError, unreadable

__all__ = ["groups_of_files"]


def groups_of_files(path: Path, files: Files) -> list[bytes]:
    """The name of the group of each file; those of other folders are a group by themselves.

    Args:
        path: A CSV file of lines `file name,group`. Lines that name no file of the first folder,
            such as a header, do not count.
        files: The files.

    Raises:
        InputError: If it cannot be read, a file is missing from it or is in two groups.
    """
    groups: dict[bytes, str] = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            for row in filter(None, reader):
                if len(row) != 2:
                    raise InputError(
                        f"expected lines of file name,group in {path}; got {','.join(row)!r} in "
                        f"line {reader.line_num}; mend it"
                    )
                name, group = row[0].strip(), row[1].strip()
                if groups.setdefault(os.fsencode(name), group) != group:
                    raise InputError(
                        f"expected one group for each file; {name} is in {path} with "
                        f"{groups[os.fsencode(name)]} and {group}; remove a line"
                    )
    except (OSError, ValueError, csv.Error) as error:
        if isinstance(error, InputError):
            raise
        remedy = "name a CSV file of lines file name,group with --data.groups FILE"
        raise unreadable(path, error, remedy) from error
    for number, name in enumerate(files.names.tolist()):
        if files.owners[number] == 0 and name not in groups:
            raise InputError(
                f"--data.groups: expected a line for each file in {path}; {os.fsdecode(name)} has "
                "none; add it"
            )
    return [
        b"group " + groups[name].encode() if owner == 0 else str(owner).encode()
        for name, owner in zip(files.names.tolist(), files.owners, strict=True)
    ]
