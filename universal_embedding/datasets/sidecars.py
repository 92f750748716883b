"""Labels and ids of a split, kept beside its records: knowing them needs no pictures read."""

import json
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np

from universal_embedding.datasets.labels import Labels

CLASS_NAMES = "class_names.json"


def _file(folder: Path, split: str) -> Path:
    return folder / f"labels-{split}.npz"


def write(folder: Path, split: str, labels: Labels, image_ids: Iterable[str]) -> None:
    """Writes the labels and ids of a split's records, in the records' order."""
    encoded = [image_id.encode("utf-8") for image_id in image_ids]
    ends = np.cumsum([0] + [len(name) for name in encoded], dtype=np.int64)
    names = np.frombuffer(b"".join(encoded), np.uint8)
    file = _file(folder, split)
    unfinished = file.with_suffix(".unfinished.npz")
    np.savez(unfinished, values=labels.values, splits=labels.splits, names=names, ends=ends)
    unfinished.replace(file)


def exists(folder: Path, split: str) -> bool:
    """Whether the split's sidecar is there."""
    return _file(folder, split).is_file()


def read_labels(folder: Path, split: str) -> Labels:
    """The class ids of the split's records."""
    with np.load(_file(folder, split)) as arrays:
        return Labels(arrays["values"], arrays["splits"])


def read_image_ids(folder: Path, split: str) -> np.ndarray:
    """`[N]` object array of str."""
    with np.load(_file(folder, split)) as arrays:
        names, ends = arrays["names"].tobytes(), arrays["ends"]
    ids = np.empty(len(ends) - 1, object)
    ids[:] = [names[a:b].decode("utf-8") for a, b in pairwise(ends)]
    return ids


def write_class_names(folder: Path, names: Mapping[int, str]) -> None:
    """Writes the names of classes by id."""
    text = json.dumps({str(key): name for key, name in sorted(names.items())}, ensure_ascii=False)
    (folder / CLASS_NAMES).write_text(text, "utf-8")


def read_class_names(folder: Path) -> dict[int, str]:
    """Names by class id, empty where none are known."""
    file = folder / CLASS_NAMES
    if not file.is_file():
        return {}
    return {int(key): name for key, name in json.loads(file.read_text("utf-8")).items()}
