"""The images of one domain as they lie on disk, before they are prepared, and their labels."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from absl import logging

from universal_embedding.errors import UserError, printable

SPLITS = ("train", "val", "test", "index", "small_index")


@dataclass(frozen=True)
class Labels:
    """Class ids of N images in compressed rows: image i has `values[splits[i]:splits[i + 1]]`.

    Attributes:
        values: `[M]` int64, M >= N.
        splits: `[N + 1]` int64, increasing by at least one.
    """

    values: np.ndarray
    splits: np.ndarray

    @classmethod
    def from_rows(cls, rows: Iterable[int | Sequence[int] | np.ndarray]) -> "Labels":
        """Builds labels from one class id, or a sequence of them, per image."""
        arrays = [np.atleast_1d(np.asarray(row, np.int64)) for row in rows]
        values = np.concatenate(arrays) if arrays else np.zeros(0, np.int64)
        splits = np.cumsum([0] + [len(array) for array in arrays], dtype=np.int64)
        return cls(values, splits)

    def __len__(self) -> int:
        return len(self.splits) - 1

    def __getitem__(self, i: int) -> np.ndarray:
        return self.values[self.splits[i] : self.splits[i + 1]]

    @property
    def is_single_label(self) -> bool:
        """Whether every image has exactly one class."""
        return len(self.values) == len(self)

    @property
    def row_ids(self) -> np.ndarray:
        """`[M]` int64: the image that each entry of `values` belongs to."""
        return np.repeat(np.arange(len(self)), np.diff(self.splits))


@dataclass(frozen=True)
class SplitManifest:
    """The images of one split, in their published order.

    Attributes:
        paths: N paths relative to the image folder; they become the records' `image_id`.
        labels: The class ids of each image.
    """

    paths: list[str]
    labels: Labels

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True)
class DatasetManifest:
    """One domain: an image folder and the images of each split.

    Attributes:
        root: The folder that the paths start from.
        splits: Manifests by split name, none of them empty.
        class_names: Names by class id, where they are known.
        source_path: File or folder that the splits were read from, for error messages.
    """

    root: Path
    splits: Mapping[str, SplitManifest]
    class_names: Mapping[int, str] = field(default_factory=dict)
    source_path: str = ""

    def __post_init__(self) -> None:
        spelling: dict[str, str] = {}
        for split, manifest in self.splits.items():
            if not len(manifest):
                raise UserError(
                    f"split {split!r} of {self.source_path} is empty; every split needs images"
                )
            seen: set[str] = set()
            for path in manifest.paths:
                parts = PurePosixPath(path).parts
                usual = spelling.setdefault("/".join(parts), path)
                if usual != path:
                    raise UserError(
                        f"{self.source_path} lists {usual!r} and {path!r}, which are one image; "
                        "write its path in one way"
                    )
                if not parts or path.startswith("/") or ".." in parts or "\0" in path:
                    raise UserError(
                        f"{path!r} in split {split!r} of {self.source_path} leads out of the image "
                        "folder; list paths inside of it"
                    )
                if path in seen:
                    raise UserError(
                        f"{path!r} is listed twice in split {split!r} of {self.source_path}; "
                        "list each image once"
                    )
                seen.add(path)
        self._warn_of_training_images()

    def _warn_of_training_images(self) -> None:
        """An image that was trained on is no fair test."""
        if "train" not in self.splits:
            return
        trained = set(self.splits["train"].paths)
        for split, manifest in self.splits.items():
            shared = [path for path in manifest.paths if path in trained]
            if split != "train" and shared:
                logging.warning(
                    "%d images of split %s of %s are in split train too, such as %s",
                    *(len(shared), split, self.source_path, printable(shared[0])),
                )
