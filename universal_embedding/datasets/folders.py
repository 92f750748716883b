"""Any folder `root/<class>/<picture>`, or a CSV of path,label[,split], as a data set."""

import csv
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from universal_embedding.datasets.builder import PictureBuilder
from universal_embedding.datasets.collection import Collection, Entries
from universal_embedding.datasets.info_files import SPLITS
from universal_embedding.datasets.labels import Labels
from universal_embedding.errors import UserError

Rows = list[tuple[str, str]]  # path and class name of each picture


@dataclass(frozen=True)
class FolderOptions:
    """How a folder is split by class.

    Attributes:
        csv: The file with the labels, if the folders do not say them.
        val_fraction: Share of the classes for `val`.
        test_fraction: Share of the classes for `test`.
        index_fraction: Share of each test class's pictures for an index of its own; 0: no index,
            the queries search each other.
        seed: Of every choice.
    """

    csv: str = ""
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    index_fraction: float = 0.0
    seed: int = 0


class FolderBuilder(PictureBuilder, skip_registration=True):
    """The manual folder itself as one domain.

    Attributes:
        folder_options: How it is split.
    """

    def __init__(self, *, folder_options: FolderOptions | None = None, **kwargs: Any) -> None:
        self.folder_options = folder_options or FolderOptions()
        super().__init__(**kwargs)

    @property
    def options(self) -> dict[str, Any]:
        """How the folder is split."""
        return asdict(self.folder_options)

    def collect(self, dl_manager: tfds.download.DownloadManager) -> Collection:
        """Reads the folder or the CSV, and splits it unless the CSV does."""
        root, chosen = Path(dl_manager.manual_dir), self.folder_options
        if chosen.csv:
            rows = _read_csv(Path(chosen.csv))
        else:
            rows = {"": [(p, name) for name, paths in class_folders(root).items() for p in paths]}
        names, ids = _class_ids({name for split in rows.values() for _, name in split})
        if "" in rows:
            rows = split_by_class(rows[""], chosen)
        splits = {
            split: Entries([path for path, _ in pairs], Labels.of([ids[c] for _, c in pairs]))
            for split, pairs in rows.items()
        }
        return Collection(root, splits, names, chosen.csv or str(root))


def folder_builder(domain: str, **kwargs: Any) -> FolderBuilder:
    """A builder `folder/<domain>`."""

    class Folder(FolderBuilder, skip_registration=True):
        BUILDER_CONFIGS: ClassVar = [tfds.core.BuilderConfig(name=domain, description=domain)]

    return Folder(config=domain, **kwargs)


def class_folders(root: Path) -> dict[str, list[str]]:
    """The pictures below each class's folder; names that start with a dot are left out."""
    names = sorted(path for path in root.iterdir() if not path.name.startswith("."))
    files = [path for path in names if not path.is_dir()]
    if files:
        raise UserError(f"{files[0]} stands beside the class folders of {root}: move it elsewhere")
    if not names:
        raise UserError(f"{root} is empty: expected {root}/<class>/<picture>")
    classes = {folder.name: _files(folder, root) for folder in names}
    for name, paths in classes.items():
        if not paths:
            raise UserError(f"{root / name} holds no picture: every class folder needs one")
    return classes


def _files(folder: Path, root: Path) -> list[str]:
    paths = sorted(folder.rglob("*"))
    files = [path.relative_to(root) for path in paths if path.is_file()]
    return [str(path) for path in files if not any(part.startswith(".") for part in path.parts)]


def _read_csv(file: Path) -> dict[str, Rows]:
    """Rows by split; all under "" if there is no such column."""
    if not file.is_file():
        raise UserError(
            f"--csv={file} is no file: expected lines of path,label or path,label,split"
        )
    rows: dict[str, Rows] = {}
    with file.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines)
        columns = reader.fieldnames or []
        if columns not in (["path", "label"], ["path", "label", "split"]):
            raise UserError(
                f"{file} starts with the columns {','.join(columns)}, not path,label[,split]"
            )
        for row in reader:
            where = f"line {reader.line_num} of {file}"
            if None in row or not all(row.values()):
                raise UserError(f"{where} is incomplete or too long: expected {','.join(columns)}")
            if row.get("split", "train") not in SPLITS:
                raise UserError(f"{where} has the split {row['split']!r}, not of {SPLITS}")
            rows.setdefault(row.get("split", ""), []).append((row["path"], row["label"]))
    if not rows:
        raise UserError(f"{file} lists no picture")
    return {split: rows[split] for split in ("", *SPLITS) if split in rows}


def _class_ids(classes: set[str]) -> tuple[dict[int, str], dict[str, int]]:
    """Names by id, ids by name: integers stay as they are, names are numbered in their order."""
    if all(re.fullmatch(r"-?\d{1,18}", name) for name in classes):
        return {}, {name: int(name) for name in classes}
    ids = {name: number for number, name in enumerate(sorted(classes))}
    return {number: name for name, number in ids.items()}, ids


def split_by_class(rows: Rows, options: FolderOptions) -> Mapping[str, Rows]:
    """Gives each class to train, val or test, and part of each test class to the index."""
    rng = np.random.default_rng(options.seed)
    classes = sorted({name for _, name in rows})
    n_val, n_test = (
        max(1, round(share * len(classes))) if share else 0
        for share in (options.val_fraction, options.test_fraction)
    )
    if len(classes) <= n_val + n_test:
        raise UserError(
            f"{len(classes)} classes are too few for {n_val} of val, {n_test} of test and one of "
            "train: add classes, or lower --val_fraction and --test_fraction"
        )
    order = rng.permutation(classes).tolist()
    home = dict.fromkeys(order, "train")
    home |= dict.fromkeys(order[:n_val], "val")
    home |= dict.fromkeys(order[n_val : n_val + n_test], "test")
    splits: dict[str, Rows] = {name: [] for name in ("train", "val", "test")}
    for path, name in rows:
        splits[home[name]].append((path, name))
    if options.index_fraction:
        splits["test"], splits["index"] = _own_index(splits["test"], options.index_fraction, rng)
    return {split: pairs for split, pairs in splits.items() if pairs}


def _own_index(rows: Rows, share: float, rng: np.random.Generator) -> tuple[Rows, Rows]:
    index: set[int] = set()
    for name in sorted({name for _, name in rows}):
        mine = [i for i, (_, owner) in enumerate(rows) if owner == name]
        count = min(max(1, round(share * len(mine))), max(1, len(mine) - 1))
        index |= set(rng.choice(mine, count, replace=False).tolist())
    queries = [row for i, row in enumerate(rows) if i not in index]
    return queries, [row for i, row in enumerate(rows) if i in index]
