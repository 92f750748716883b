"""Any folder `root/<class>/<image>`, or a CSV of path,label[,split], as a dataset."""

import contextlib
import csv
import hashlib
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from etils import epath

from universal_embedding.datasets.builder import ImageRetrievalBuilder
from universal_embedding.datasets.examples import SPLITS, DatasetManifest, Labels, SplitManifest
from universal_embedding.datasets.image_listing import is_hidden, local_size, walk_files
from universal_embedding.errors import UserError
from universal_embedding.files import as_path, is_remote, list_directory

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


class ImageFolderBuilder(ImageRetrievalBuilder):
    """The manual folder itself as one domain: `folder/<domain>`.

    Attributes:
        folder_config: Settings of the split.
    """

    def __init__(
        self, domain: str, *, folder_config: ImageFolderConfig | None = None, **kwargs: Any
    ) -> None:
        super().__init__("folder", domain, **kwargs)
        self.folder_config = folder_config or ImageFolderConfig()
        self._source = ""

    @property
    def options(self) -> dict[str, Any]:
        """Settings of the split, and once the images are listed, a fingerprint of the list."""
        source = {"source": self._source} if self._source else {}
        return {**super().options, **asdict(self.folder_config), **source}

    def check_source(self, manual_dir: epath.Path, stored: Mapping[str, Any]) -> None:
        """Compares the images with those that were prepared, by name, label and size.

        Raises:
            UserError: Other images are there now.
        """
        if manual_dir.is_dir() and list_directory(manual_dir):  # not removed since
            self.list_examples(manual_dir)
            if stored.get("source") != self._source:
                raise UserError(
                    f"{self.folder} was prepared from other images than those of {manual_dir}; "
                    "delete it to prepare them, or use another --data_dir"
                )

    @property
    def instructions(self) -> str:
        """Instructions to arrange the images."""
        return "Put the images of each class into a folder <class>/ of the manual folder."

    def list_examples(self, manual_dir: epath.Path) -> DatasetManifest:
        """Reads the folder or the CSV, and splits it by class unless the CSV has splits."""
        root, config = manual_dir, self.folder_config
        rows: Mapping[str, Rows]
        if config.csv:
            rows = _read_csv(as_path(config.csv))
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
        manifest = DatasetManifest(root, splits, names, config.csv or str(root))
        self._source = _fingerprint(manifest)
        return manifest


def _fingerprint(manifest: DatasetManifest) -> str:
    """sha256 of the images' names, labels and, on a local disk, sizes; not of where they are."""
    digest = hashlib.sha256()
    for split, images in manifest.splits.items():
        for path, label in zip(images.paths, images.labels.values.tolist(), strict=True):
            size = None if is_remote(manifest.root) else local_size(manifest.root / path)
            digest.update(ascii((split, path, label, size)).encode())
    return digest.hexdigest()


def list_class_folders(root: epath.Path) -> dict[str, list[str]]:
    """Lists the files below each class folder; names that start with a dot are left out.

    Links without a target and folders that cannot be listed are among them: reading these fails,
    so that they are named and counted with the corrupt images.

    Returns:
        Paths relative to `root`, by class name, both sorted.

    Raises:
        UserError: A file lies beside the class folders, there are no images, or `root` cannot be
            listed.
    """
    entries = [path for path in list_directory(root) if not path.name.startswith(".")]
    files = [path for path in entries if not path.is_dir()]
    if files:
        raise UserError(f"{files[0]} is a file beside the class folders of {root}; move it away")
    if not entries:
        raise UserError(f"{root} is empty; expected {root}/<class>/<image>")
    classes = {}
    for folder in entries:
        try:
            names = [name for name, _ in walk_files(folder) if not is_hidden(name)]
        except UserError:  # the class folder itself cannot be listed
            names = [""]
        classes[folder.name] = sorted(f"{folder.name}/{name}" for name in names)
    for name, paths in classes.items():
        if not paths:
            raise UserError(f"{root / name} has no images; every class folder needs one")
    return classes


def _read_csv(file: epath.Path) -> dict[str, Rows]:
    """Rows by split; all under "" if there is no such column."""
    if not file.is_file():
        raise UserError(
            f"--csv={file} is not a file; expected lines of path,label or path,label,split"
        )
    rows: dict[str, Rows] = {}
    with open_csv(file) as lines:
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
    # Not `01` or other digits: two names would become one class.
    if all(re.fullmatch(r"0|-?[1-9][0-9]{0,17}", name) for name in classes):
        return {}, {name: int(name) for name in classes}
    ids = {name: class_id for class_id, name in enumerate(sorted(classes))}
    return {class_id: name for name, class_id in ids.items()}, ids


@contextlib.contextmanager
def open_csv(file: epath.Path) -> Iterator[io.StringIO]:
    """Opens a CSV file in UTF-8, with or without a byte order mark.

    Raises:
        UserError: The file cannot be read, or is not such a file.
    """
    try:
        yield io.StringIO(file.read_bytes().decode("utf-8-sig"), newline="")
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    except (ValueError, csv.Error) as error:  # UnicodeDecodeError is a ValueError
        raise UserError(f"{file} is not a CSV file in UTF-8 ({error}); save it as one") from None


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
        if not splits["test"]:
            raise UserError(
                f"--index_fraction={config.index_fraction} leaves no queries, as each test class "
                "has one image; add images, or leave the flag out"
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
