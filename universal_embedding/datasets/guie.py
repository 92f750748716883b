"""`guie/imagenet`, `guie/products10k`, `guie/landmarks2021`: the challenge's usual training set.

One label space: ImageNet's classes first, then Products-10K's, then the most frequent landmarks.
"""

import csv
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from etils import epath

from universal_embedding.datasets.builder import ImageRetrievalBuilder
from universal_embedding.datasets.domains import GUIE
from universal_embedding.datasets.examples import DatasetManifest, Labels, SplitManifest
from universal_embedding.datasets.image_folder import list_class_folders, open_csv
from universal_embedding.errors import UserError

PathsByClass = dict[str, list[str]]


@dataclass(frozen=True)
class GuieConfig:
    """Settings of the usual recipe.

    Attributes:
        max_per_class: Maximum number of images per class, sampled by the seed.
        landmark_classes: Number of landmark classes to keep, the most frequent ones.
        val_fraction: Fraction of the images, or of the classes, held out for `val`.
        disjoint_classes: Whether the classes of `val` and `train` differ. The usual split shares
            them, which measures classification more than retrieval.
        seed: Random seed of samples and split.
    """

    max_per_class: int = 50
    landmark_classes: int = GUIE["landmarks2021"].num_classes["all"]
    val_fraction: float = 0.1
    disjoint_classes: bool = False
    seed: int = 0


class Guie(ImageRetrievalBuilder):
    """One of the three sources.

    Attributes:
        guie_config: Settings of the recipe.
        allow_partial: Accept fewer classes than published.
    """

    def __init__(
        self,
        domain: str,
        *,
        guie_config: GuieConfig | None = None,
        allow_partial: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__("guie", domain, **kwargs)
        self.guie_config = guie_config or GuieConfig()
        self.allow_partial = allow_partial

    @property
    def options(self) -> dict[str, Any]:
        """Settings of the recipe."""
        return {**super().options, **asdict(self.guie_config)}

    @property
    def instructions(self) -> str:
        """Instructions to get this source's images."""
        return GUIE[self.domain].instructions

    def list_examples(self, manual_dir: epath.Path) -> DatasetManifest:
        """Reads the raw layout and selects classes, images and splits."""
        key, config = self.domain, self.guie_config
        root = manual_dir / key
        if not root.is_dir():
            raise UserError(f"{root} is not a directory. {self.instructions}")
        classes = _READERS[key](root)
        expected = GUIE[key].num_classes["all"]
        if key == "landmarks2021":
            expected = config.landmark_classes
            by_size = sorted(classes, key=lambda name: (-len(classes[name]), int(name)))
            classes = {name: classes[name] for name in by_size[:expected]}
        if len(classes) != expected and not self.allow_partial:
            raise UserError(
                f"{root} has {len(classes):,} classes, expected {expected:,}; complete the files, "
                "or accept this with --allow_partial"
            )
        keys = list(GUIE)
        offset = sum(GUIE[previous].num_classes["all"] for previous in keys[: keys.index(key)])
        names = _sort_names(classes)
        ids = {name: offset + rank for rank, name in enumerate(names)}
        rows = [
            (path, ids[name])
            for name in names
            for path in _sample(classes[name], config.max_per_class, config.seed, f"{key}/{name}")
        ]
        class_names = {ids[name]: name for name in names}
        return DatasetManifest(root, _split(rows, config), class_names, str(root))

    @property
    def metadata(self) -> dict[str, Any]:
        """Citation and license."""
        entry = GUIE[self.domain]
        return {
            "description": entry.source,
            "citation": entry.citation,
            "homepage": entry.homepage,
            "license": entry.license,
        }


def _read_products10k(root: epath.Path) -> PathsByClass:
    classes: PathsByClass = {}
    for row in _read_table(root / "train.csv", ("name", "class", "group")):
        classes.setdefault(row["class"], []).append(f"train/{row['name']}")
    return classes


def _read_landmarks2021(root: epath.Path) -> PathsByClass:
    classes: PathsByClass = {}
    for row in _read_table(root / "train.csv", ("id", "landmark_id")):
        name = row["id"]
        if len(name) < 3 or not _is_integer(row["landmark_id"]):
            raise UserError(
                f"{root / 'train.csv'} has the row {name!r}, {row['landmark_id']!r}; expected the "
                "id of an image and a number; download it again"
            )
        path = f"train/{name[0]}/{name[1]}/{name[2]}/{name}.jpg"
        classes.setdefault(row["landmark_id"], []).append(path)
    return classes


_READERS: Mapping[str, Callable[[epath.Path], PathsByClass]] = {
    "imagenet": list_class_folders,
    "products10k": _read_products10k,
    "landmarks2021": _read_landmarks2021,
}


def _read_table(file: epath.Path, columns: Sequence[str]) -> list[dict[str, str]]:
    if not file.is_file():
        raise UserError(f"{file} is missing; it is part of the dataset's download")
    with open_csv(file) as lines:
        reader = csv.DictReader(lines)
        if not set(columns) <= set(reader.fieldnames or ()):
            raise UserError(
                f"{file} has the columns {reader.fieldnames}, expected {columns}; download it again"
            )
        rows = list(reader)
    for line, row in enumerate(rows, 2):
        if not all(row[column] for column in columns):
            raise UserError(f"row {line} of {file} is incomplete; download it again")
    return rows


def _is_integer(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19


def _sort_names(names: Iterable[str]) -> list[str]:
    names = list(names)
    if all(map(_is_integer, names)):
        return sorted(names, key=int)
    return sorted(names)


def _sample(paths: list[str], limit: int, seed: int, name: str) -> list[str]:
    """At most `limit` images of a class, independent of all other classes."""
    paths = sorted(paths)
    if len(paths) <= limit:
        return paths
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return [paths[i] for i in sorted(rng.choice(len(paths), limit, replace=False))]


def _split(rows: list[tuple[str, int]], config: GuieConfig) -> dict[str, SplitManifest]:
    """Holds out a fraction of the images, or of the classes, for `val`."""
    rng = np.random.default_rng(config.seed)
    labels = np.array([label for _, label in rows])
    groups = labels if config.disjoint_classes else np.arange(len(rows))
    units = np.unique(groups)
    held_out = rng.permutation(units)[: round(config.val_fraction * len(units))]
    in_val = np.isin(groups, held_out)
    return {
        "train": _select(rows, np.flatnonzero(~in_val)),
        "val": _select(rows, np.flatnonzero(in_val)),
    }


def _select(rows: list[tuple[str, int]], indices: np.ndarray) -> SplitManifest:
    labels = Labels.from_rows([rows[i][1] for i in indices])
    return SplitManifest([rows[i][0] for i in indices], labels)
