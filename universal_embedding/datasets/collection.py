"""The pictures of one domain as they lie on disk, before they are prepared."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from universal_embedding.datasets.labels import Labels
from universal_embedding.errors import UserError


@dataclass(frozen=True)
class Entries:
    """The pictures of one split, in their published order.

    Attributes:
        paths: N paths relative to the picture folder; they become the records' `image_id`.
        labels: The class ids of each picture.
    """

    paths: list[str]
    labels: Labels

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True)
class Collection:
    """One domain: a picture folder and the entries of each split.

    Attributes:
        root: The folder that the entries' paths start from.
        splits: Entries by split name, none of them empty.
        class_names: Names by class id, where they are known.
        origin: What the entries were read from, for error messages.
    """

    root: Path
    splits: Mapping[str, Entries]
    class_names: Mapping[int, str] = field(default_factory=dict)
    origin: str = ""

    def __post_init__(self) -> None:
        for split, entries in self.splits.items():
            if not len(entries):
                raise UserError(
                    f"split {split!r} of {self.origin} is empty: every split needs pictures"
                )
            seen: set[str] = set()
            for path in entries.paths:
                if path in seen:
                    raise UserError(
                        f"{path!r} stands twice in split {split!r} of {self.origin}: "
                        "list each picture once"
                    )
                seen.add(path)
