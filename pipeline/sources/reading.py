"""Say how a folder or a table is to be read, where it could mean several things.

source = find("photos.csv", reading=Reading(label_column="species", missing=("unknown",)))
"""

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, final

from pipeline.errors import InputError


@final
@dataclass(frozen=True)
class Reading:
    """How a folder or a table is read; what is not given is found out, and refused if there are several answers."""

    path_column: str | None = None
    """Table: name, or number from 1, of the column that names the files."""
    label_column: str | None = None
    """Table: name, or number from 1, of the column that holds the class of each image."""
    one_hot: tuple[str, ...] = ()
    """Table: columns that are 1 for the class of an image, and 0 for the others; their names are the classes."""
    rows: str | None = None
    """Table: COLUMN=VALUE for the rows with this value alone, such as split=train; every row when absent."""
    suffix: str | None = None
    """Table: what the files are called behind the cell that names them, such as .jpg."""
    image_folder: Path | None = None
    """Table or annotations: folder in which the files lie; that of the table when absent."""
    missing: tuple[str, ...] = ()
    """Table: cells that mean no label, beside the empty cell; instead of the usual ones, such as NaN and -1."""
    classes_from: Path | None = None
    """The classes and their order: of a .beton, a .json list, or a .txt with a name a line."""
    levels: int | Literal["leaf"] | None = None
    """Folders: how many levels of folders name a class; "leaf" for each folder that holds images itself."""

    def check(self) -> None:
        """Raise InputError for values that mean nothing, or that exclude each other."""
        if self.levels is not None and self.levels != "leaf" and self.levels < 1:
            raise InputError(f"--levels: expected 1 or more, or leaf, got {self.levels}")
        if self.rows is not None and not re.fullmatch(r"[^=]+=.*", self.rows):
            raise InputError(f"--rows: expected COLUMN=VALUE, such as split=train, got {self.rows!r}")
        if self.suffix is not None and not re.fullmatch(r"\.[\w.-]*\w", self.suffix):
            raise InputError(f"--suffix: expected a dot and letters, such as .jpg, got {self.suffix!r}")
        if self.one_hot and self.label_column is not None:
            raise InputError("--one-hot and --label-column: expected one of them, got both")
        if len(self.one_hot) == 1 or len(set(self.one_hot)) < len(self.one_hot):
            raise InputError(f"--one-hot: expected two or more different columns, got {' '.join(self.one_hot)}")

    def arguments(self) -> dict[str, Any]:
        """The fields as a manifest keeps them."""
        return {each.name: str(value) if isinstance(value := getattr(self, each.name), Path) else value
                for each in fields(self)}  # fmt: skip

    def refuse_for(self, kind: str, *names: str) -> None:
        """Raise InputError if one of the fields `names` is given, though the source is of another kind."""
        given = [each.name for each in fields(self) if each.name in names and getattr(self, each.name) != each.default]
        if given:
            raise InputError(f"--{given[0].replace('_', '-')}: has no meaning for {kind}; leave it out")


TABLE_ONLY = "path_column", "label_column", "one_hot", "rows", "suffix", "image_folder", "missing"
FOUND_OUT = Reading()
"""Nothing is given: all is found out."""
