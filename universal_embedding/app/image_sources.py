"""Images to embed: a folder, a list in a Parquet file, or a split of a prepared dataset."""

import bisect
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from etils import epath

from universal_embedding.datasets.image_files import CorruptImageError, read_image_file
from universal_embedding.datasets.image_listing import (
    IMAGE_SUFFIXES,
    is_hidden,
    list_image_files,
    walk_files,
)
from universal_embedding.errors import UserError
from universal_embedding.files import (
    as_path,
    is_remote,
    list_directory,
    reporting_unreadable,
)

if TYPE_CHECKING:
    import pyarrow

    from universal_embedding.datasets.records import Records


class ImageSource(Protocol):
    """N images; can be pickled."""

    @property
    def description(self) -> str:
        """Origin of the images, for messages."""

    @property
    def names(self) -> Sequence[str]:
        """Their N names."""

    @property
    def labels(self) -> Sequence[list[str]]:
        """For each the names of its classes, none where they are unknown."""

    @property
    def domains(self) -> Sequence[str] | None:
        """For each its domain; None where there are none."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> bytes:
        """The encoded image.

        Raises:
            UserError: It is missing or damaged.
        """

    def subset(self, start: int, stop: int) -> Self:
        """The images `start` to `stop`."""


@dataclass(frozen=True)
class FileSource:
    """Image files below a folder, local or remote; `unusable` has reasons by printable name."""

    description: str
    root: str
    names: Sequence[str]
    labels: Sequence[list[str]]
    unusable: Mapping[str, str] = field(default_factory=dict)
    domains: None = None

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> bytes:
        """The bytes of the file."""
        if self.names[index] in self.unusable:
            raise CorruptImageError(self.unusable[self.names[index]])
        return read_image_file(self.root, self.names[index])

    def subset(self, start: int, stop: int) -> "FileSource":
        """The files `start` to `stop`."""
        part = slice(start, stop)
        return dataclasses.replace(self, names=self.names[part], labels=self.labels[part])


class RecordSource:
    """Images of a prepared split of some domains, one domain after the other."""

    def __init__(
        self, records: "Sequence[Records]", start: int = 0, stop: int | None = None
    ) -> None:
        self._records = tuple(records)
        self._starts = [0, *itertools.accumulate(map(len, records))]
        self._range = range(self._starts[-1])[start:stop]
        places = [self._locate(i) for i in self._range]
        folder = records[0].folder if len(records) == 1 else records[0].folder.parents[1]
        self.description = f"{folder} {records[0].split}"
        self.names = [str(r.image_ids[i]) for r, i in places]
        self.labels = [[str(label) for label in r.labels[i]] for r, i in places]
        self.domains = [r.domain for r, _ in places]

    def __len__(self) -> int:
        return len(self._range)

    def read(self, index: int) -> bytes:
        """The encoded image of the record."""
        records, row = self._locate(self._range[index])
        return records.read([row])[0]

    def subset(self, start: int, stop: int) -> "RecordSource":
        """The records `start` to `stop`."""
        part = self._range[start:stop]
        return RecordSource(self._records, part.start, part.stop)

    def _locate(self, index: int) -> "tuple[Records, int]":
        """Image `index` of all: the records of its domain, and its row in them."""
        number = bisect.bisect_right(self._starts, index) - 1
        return self._records[number], index - self._starts[number]

    def __reduce__(self) -> tuple:
        return RecordSource, (self._records, self._range.start, self._range.stop)


def open_source(images: str, split: str = "test") -> ImageSource:
    """Opens what a user names.

    Args:
        images: A folder of images, local or remote, whose sub-folders are the labels; a `.parquet`
            with a column `name` of paths, absolute or relative to its own folder, and perhaps
            `label`; or the prepared folder of a domain, `<dataset>/<domain>/<version>`, or of all
            domains of a data set, `<dataset>`.
        split: Split of a prepared folder.

    Raises:
        UserError: There are no such images.
    """
    root = as_path(images)
    if images.endswith(".parquet"):
        return _from_parquet(images)
    if (root / "dataset_info.json").exists():
        from universal_embedding.datasets.records import Records

        return RecordSource([Records(root, root.parent.name, split)])
    if _is_prepared_dataset(root):
        from universal_embedding.datasets.records import list_prepared_domains, open_records

        place = str(root.parent), root.name
        domains = list_prepared_domains(*place)
        return RecordSource([open_records(*place, domain, split) for domain in domains])
    unusable: dict[str, str] = {}
    if is_remote(images):
        names = [
            name
            for name, _ in walk_files(images)
            if name.lower().endswith(IMAGE_SUFFIXES) and not is_hidden(name)
        ]
    else:
        listing = list_image_files(Path(root))
        usable = set(listing.names)
        unusable = {n: why for n, why in listing.unusable.items() if n not in usable}
        names = [*listing.names, *unusable]  # their rows say why there is no embedding
    if not names:
        raise UserError(f"--images={images} holds no images; name a folder that does")
    names.sort()
    labels = [[name.split("/")[0]] if "/" in name else [] for name in names]
    return FileSource(images, str(root), names, labels, unusable)


def _is_prepared_dataset(root: epath.Path) -> bool:
    from universal_embedding.datasets.records import VERSION

    folders = list_directory(root)[:100]  # a data set has not more domains; images may be many
    return any((folder / VERSION / "dataset_info.json").exists() for folder in folders)


def _from_parquet(images: str) -> FileSource:
    remedy = "name a Parquet file with a column `name`, the path of each image, and perhaps `label`"
    try:
        table = read_table(as_path(images), remedy)
    except FileNotFoundError:
        raise UserError(f"--images={images} does not exist; {remedy}") from None
    if not len(table):
        raise UserError(f"--images={images} has no rows; {remedy}")
    columns = table.to_pydict()
    if not all(isinstance(name, str) for name in columns["name"]):
        raise UserError(f"--images={images} has a `name` that is not text; name each image by path")
    labels = [_label_list(label) for label in columns.get("label", [None] * len(table))]
    return FileSource(images, str(as_path(images).parent), columns["name"], labels)


def read_table(
    path: epath.Path, remedy: str, columns: Sequence[str] | None = None
) -> "pyarrow.Table":
    """Reads a Parquet file of images, with the checksums of its pages if it has them.

    Args:
        path: The file.
        remedy: What to do about a file that is damaged, for the error.
        columns: The columns to read; None: all.

    Raises:
        UserError: The file is damaged, or has no column `name`.
        FileNotFoundError: There is no such file.
    """
    import pyarrow.parquet

    with reporting_unreadable(path, remedy), path.open("rb") as file:
        table = pyarrow.parquet.read_table(file, columns=columns, page_checksum_verification=True)
        table.validate(full=True)
        if "name" not in table.column_names:
            raise ValueError(f"its columns are {table.column_names}")
        return table


def _label_list(label: object) -> list[str]:
    if label is None:
        return []
    return [str(item) for item in label] if isinstance(label, list) else [str(label)]
