"""Any folder `root/<class>/<image>`, or a CSV of path,label[,split], as a dataset."""

import csv
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from universal_embedding.datasets.builder import ImageRetrievalBuilder
from universal_embedding.datasets.examples import SPLITS, DatasetManifest, Labels, SplitManifest
from universal_embedding.errors import UserError

Rows = list[tuple[str, str]]  # path and class name of each image


@dataclass(frozen=True)
class ImageFolderConfig:
    """Settings of the split by class.

    Attributes:
        csv: CSV file of the labels, if the folders do not name the classes.
        val_fraction: Fraction of the classes used for `val`.
        test_fraction: Fraction of the classes used for `test`.
        index_fraction: Fraction of each test class's images in a separate index; 0: no index, the
            queries search each other.
        seed: Random seed of the split.
    """

    csv: str = ""
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    index_fraction: float = 0.0
    seed: int = 0


class ImageFolderBuilder(ImageRetrievalBuilder, skip_registration=True):
    """The manual folder itself as one domain.

    Attributes:
        folder_config: Settings of the split.
    """

    def __init__(self, *, folder_config: ImageFolderConfig | None = None, **kwargs: Any) -> None:
        self.folder_config = folder_config or ImageFolderConfig()
        super().__init__(**kwargs)

    @property
    def options(self) -> dict[str, Any]:
        """Settings of the split."""
        return asdict(self.folder_config)

    @property
    def MANUAL_DOWNLOAD_INSTRUCTIONS(self) -> str:
        """Instructions to arrange the images."""
        return "Put the images of each class into a folder <class>/ of the manual folder."

    def list_examples(self, dl_manager: tfds.download.DownloadManager) -> DatasetManifest:
        """Reads the folder or the CSV, and splits it by class unless the CSV has splits."""
        root, config = Path(dl_manager.manual_dir), self.folder_config
        rows: Mapping[str, Rows]
        if config.csv:
            rows = _read_csv(Path(config.csv))
        else:
            classes = list_class_folders(root)
            rows = {"": [(path, name) for name, paths in classes.items() for path in paths]}
        names, ids = _number_classes({name for pairs in rows.values() for _, name in pairs})
        if "" in rows:
            rows = split_classes(rows[""], config)
        splits = {
            split: SplitManifest(
                [path for path, _ in pairs], Labels.from_rows([ids[name] for _, name in pairs])
            )
            for split, pairs in rows.items()
        }
        return DatasetManifest(root, splits, names, config.csv or str(root))


def make_image_folder_builder(domain: str, **kwargs: Any) -> ImageFolderBuilder:
    """Makes the builder of `folder/<domain>`."""

    class Folder(ImageFolderBuilder, skip_registration=True):
        BUILDER_CONFIGS: ClassVar = [tfds.core.BuilderConfig(name=domain, description=domain)]

    return Folder(config=domain, **kwargs)


def list_class_folders(root: Path) -> dict[str, list[str]]:
    """Lists the images below each class folder; names that start with a dot are left out.

    Returns:
        Paths relative to `root`, by class name, both sorted.

    Raises:
        UserError: A file lies beside the class folders, or there are no images.
    """
    entries = sorted(path for path in root.iterdir() if not path.name.startswith("."))
    files = [path for path in entries if not path.is_dir()]
    if files:
        raise UserError(f"{files[0]} is a file beside the class folders of {root}; move it away")
    if not entries:
        raise UserError(f"{root} is empty; expected {root}/<class>/<image>")
    classes = {folder.name: _list_files(folder, root) for folder in entries}
    for name, paths in classes.items():
        if not paths:
            raise UserError(f"{root / name} has no images; every class folder needs one")
    return classes


def _list_files(folder: Path, root: Path) -> list[str]:
    paths = sorted(folder.rglob("*"))
    files = [path.relative_to(root) for path in paths if path.is_file()]
    return [str(path) for path in files if not any(part.startswith(".") for part in path.parts)]


def _read_csv(file: Path) -> dict[str, Rows]:
    """Rows by split; all under "" if there is no such column."""
    if not file.is_file():
        raise UserError(
            f"--csv={file} is not a file; expected lines of path,label or path,label,split"
        )
    rows: dict[str, Rows] = {}
    with file.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines)
        columns = list(reader.fieldnames or [])
        if columns not in (["path", "label"], ["path", "label", "split"]):
            raise UserError(
                f"{file} has the columns {','.join(columns)}; expected path,label[,split]"
            )
        for row in reader:
            line = f"line {reader.line_num} of {file}"
            if None in row or not all(row.values()):
                raise UserError(f"{line} is incomplete or too long; expected {','.join(columns)}")
            if row.get("split", "train") not in SPLITS:
                raise UserError(
                    f"{line} has the split {row['split']!r}; expected {', '.join(SPLITS)}"
                )
            rows.setdefault(row.get("split", ""), []).append((row["path"], row["label"]))
    if not rows:
        raise UserError(f"{file} lists no images; expected lines of {','.join(columns)}")
    return {split: rows[split] for split in ("", *SPLITS) if split in rows}


def _number_classes(classes: set[str]) -> tuple[dict[int, str], dict[str, int]]:
    """Names by id, ids by name: integers keep their value, names are numbered in sorted order."""
    if all(re.fullmatch(r"-?\d{1,18}", name) for name in classes):
        return {}, {name: int(name) for name in classes}
    ids = {name: class_id for class_id, name in enumerate(sorted(classes))}
    return {class_id: name for name, class_id in ids.items()}, ids


def split_classes(rows: Rows, config: ImageFolderConfig) -> dict[str, Rows]:
    """Assigns each class to train, val or test, and some images of each test class to the index.

    Raises:
        UserError: There are too few classes.
    """
    rng = np.random.default_rng(config.seed)
    classes = sorted({name for _, name in rows})
    num_val, num_test = (
        max(1, round(fraction * len(classes))) if fraction else 0
        for fraction in (config.val_fraction, config.test_fraction)
    )
    if len(classes) <= num_val + num_test:
        raise UserError(
            f"{len(classes)} classes are too few for {num_val} in val, {num_test} in test and one "
            "in train; add classes, or lower --val_fraction and --test_fraction"
        )
    order = rng.permutation(classes).tolist()
    split_by_class = dict.fromkeys(order, "train")
    split_by_class |= dict.fromkeys(order[:num_val], "val")
    split_by_class |= dict.fromkeys(order[num_val : num_val + num_test], "test")
    splits: dict[str, Rows] = {split: [] for split in ("train", "val", "test")}
    for path, name in rows:
        splits[split_by_class[name]].append((path, name))
    if config.index_fraction:
        splits["test"], splits["index"] = _split_off_index(
            splits["test"], config.index_fraction, rng
        )
    return {split: pairs for split, pairs in splits.items() if pairs}


def _split_off_index(rows: Rows, fraction: float, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """Queries and index, with at least one image of each class in each where there are two."""
    index: set[int] = set()
    for class_name in sorted({name for _, name in rows}):
        members = [i for i, (_, name) in enumerate(rows) if name == class_name]
        count = min(max(1, round(fraction * len(members))), max(1, len(members) - 1))
        index |= set(rng.choice(members, count, replace=False).tolist())
    queries = [row for i, row in enumerate(rows) if i not in index]
    return queries, [row for i, row in enumerate(rows) if i in index]
