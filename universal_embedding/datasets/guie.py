"""`guie/imagenet`, `guie/products10k`, `guie/landmarks2021`: the challenge's usual training set.

One label space: ImageNet's classes first, then Products-10K's, then the most frequent landmarks.
"""

import csv
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from universal_embedding.datasets.builder import PictureBuilder
from universal_embedding.datasets.collection import Collection, Entries
from universal_embedding.datasets.domains import GUIE
from universal_embedding.datasets.folders import class_folders
from universal_embedding.datasets.labels import Labels
from universal_embedding.errors import UserError

Classes = dict[str, list[str]]  # paths of the pictures by the class's name


@dataclass(frozen=True)
class GuieOptions:
    """The numbers of the usual recipe.

    Attributes:
        max_per_class: At most so many pictures of a class; which ones depends on the seed.
        landmark_classes: Of the landmarks, so many of the most frequent classes.
        val_fraction: Share of the pictures, or of the classes, that goes to `val`.
        disjoint_classes: Whether `val` has classes of its own. The usual split shares them, which
            measures classification more than retrieval.
        seed: Of every choice.
    """

    max_per_class: int = 50
    landmark_classes: int = GUIE["landmarks2021"].classes["all"]
    val_fraction: float = 0.1
    disjoint_classes: bool = False
    seed: int = 0


class Guie(PictureBuilder):
    """One config for each of the three sources. Importing this module registers it with TFDS.

    Attributes:
        guie_options: The recipe's numbers.
        allow_partial: Accept fewer classes than published.
    """

    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name=key, description=domain.source) for key, domain in GUIE.items()
    ]

    def __init__(
        self, *, guie_options: GuieOptions | None = None, allow_partial: bool = False, **kwargs: Any
    ) -> None:
        self.guie_options = guie_options or GuieOptions()
        self.allow_partial = allow_partial
        super().__init__(**kwargs)

    @property
    def options(self) -> dict[str, Any]:
        """The recipe's numbers."""
        return asdict(self.guie_options)

    @property
    def MANUAL_DOWNLOAD_INSTRUCTIONS(self) -> str:
        """How to get this source's pictures."""
        return GUIE[self.builder_config.name].instructions

    def collect(self, dl_manager: tfds.download.DownloadManager) -> Collection:
        """Reads the raw layout and chooses classes, pictures and splits."""
        key, chosen = self.builder_config.name, self.guie_options
        root = Path(dl_manager.manual_dir) / key
        if not root.is_dir():
            raise UserError(f"{root} is no folder. {GUIE[key].instructions}")
        classes = _READERS[key](root)
        expected = GUIE[key].classes["all"]
        if key == "landmarks2021":
            expected = chosen.landmark_classes
            by_size = sorted(classes, key=lambda name: (-len(classes[name]), int(name)))
            classes = {name: classes[name] for name in by_size[:expected]}
        if len(classes) != expected and not self.allow_partial:
            raise UserError(
                f"{root} has {len(classes):,} classes, expected {expected:,}: complete the files, "
                "or accept this with --allow_partial"
            )
        offset = sum(GUIE[before].classes["all"] for before in list(GUIE)[: list(GUIE).index(key)])
        names = _in_order(classes)
        ids = {name: offset + rank for rank, name in enumerate(names)}
        rows = [
            (path, ids[name])
            for name in names
            for path in _sample(classes[name], chosen.max_per_class, chosen.seed, f"{key}/{name}")
        ]
        splits = _split(rows, chosen)
        return Collection(root, splits, {ids[name]: name for name in names}, str(root))

    def describe(self) -> dict[str, Any]:
        """Citation and terms."""
        domain = GUIE[self.builder_config.name]
        return {
            "description": domain.source,
            "citation": domain.citation,
            "homepage": domain.address,
            "license": domain.terms,
        }


def _imagenet(root: Path) -> Classes:
    return class_folders(root)


def _products10k(root: Path) -> Classes:
    classes: Classes = {}
    for row in _table(root / "train.csv", ("name", "class", "group")):
        classes.setdefault(row["class"], []).append(f"train/{row['name']}")
    return classes


def _landmarks2021(root: Path) -> Classes:
    classes: Classes = {}
    for row in _table(root / "train.csv", ("id", "landmark_id")):
        name = row["id"]
        path = f"train/{name[0]}/{name[1]}/{name[2]}/{name}.jpg"
        classes.setdefault(row["landmark_id"], []).append(path)
    return classes


_READERS: Mapping[str, Callable[[Path], Classes]] = {
    "imagenet": _imagenet,
    "products10k": _products10k,
    "landmarks2021": _landmarks2021,
}


def _table(file: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    if not file.is_file():
        raise UserError(f"{file} is missing: it belongs to the data set's download")
    with file.open(newline="", encoding="utf-8") as lines:
        reader = csv.DictReader(lines)
        if not set(columns) <= set(reader.fieldnames or ()):
            raise UserError(f"{file} has the columns {reader.fieldnames}, expected {columns}")
        return list(reader)


def _in_order(names: Mapping[str, Any]) -> list[str]:
    numeric = all(name.isdigit() for name in names)
    return sorted(names, key=int if numeric else str)


def _sample(paths: list[str], most: int, seed: int, name: str) -> list[str]:
    """At most so many of a class's pictures; no other class changes which."""
    paths = sorted(paths)
    if len(paths) <= most:
        return paths
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return [paths[i] for i in sorted(rng.choice(len(paths), most, replace=False))]


def _split(rows: list[tuple[str, int]], options: GuieOptions) -> dict[str, Entries]:
    """Puts a share of the pictures, or of the classes, aside for `val`."""
    rng = np.random.default_rng(options.seed)
    labels = np.array([label for _, label in rows])
    units = np.unique(labels) if options.disjoint_classes else np.arange(len(rows))
    aside = rng.permutation(units)[: round(options.val_fraction * len(units))]
    in_val = np.isin(labels if options.disjoint_classes else np.arange(len(rows)), aside)
    return {
        "train": _entries(rows, np.flatnonzero(~in_val)),
        "val": _entries(rows, np.flatnonzero(in_val)),
    }


def _entries(rows: list[tuple[str, int]], numbers: np.ndarray) -> Entries:
    return Entries([rows[i][0] for i in numbers], Labels.of([rows[i][1] for i in numbers]))
