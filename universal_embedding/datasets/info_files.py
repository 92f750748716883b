"""UnED's layout: `info_files/<domain>/<split>.json` and `images/<path>`."""

import json
from pathlib import Path
from typing import Any

from universal_embedding.datasets.collection import Collection, Entries
from universal_embedding.datasets.labels import Labels
from universal_embedding.errors import UserError

INFO_FILES = "info_files"
IMAGES = "images"
SPLITS = ("train", "val", "test", "index", "small_index")
CLASS_NAMES = "class_names.json"


def domain_keys(info_files: Path) -> list[str]:
    """The domains that an `info_files` folder describes, sorted."""
    if not info_files.is_dir():
        raise UserError(f"{info_files} is no folder: expected <domain>/<split>.json files in it")
    keys = sorted(folder.name for folder in info_files.iterdir() if folder.is_dir())
    if not keys:
        raise UserError(f"{info_files} holds no domain: expected <domain>/<split>.json files in it")
    return keys


def read_domain(info_files: Path, domain: str, images: Path) -> Collection:
    """Reads every split of one domain.

    Raises:
        UserError: A folder is missing, or a file is not what the layout says.
    """
    folder = info_files / domain
    if not folder.is_dir():
        raise UserError(
            f"{folder} is no folder: {info_files} describes {', '.join(domain_keys(info_files))}"
        )
    if not images.is_dir():
        raise UserError(f"the picture folder {images} is missing: put the pictures there")
    files = {split: folder / f"{split}.json" for split in SPLITS}
    splits = {split: read_entries(file) for split, file in files.items() if file.is_file()}
    if "train" not in splits and "test" not in splits:
        raise UserError(f"{folder} holds neither train.json nor test.json: nothing to prepare")
    return Collection(images, splits, _class_names(folder / CLASS_NAMES), str(folder))


def read_entries(file: Path) -> Entries:
    """Reads one info file: a list of `{"path": str, "class_id": int or [int, ...]}`."""
    rows = _read_json(file)
    if not isinstance(rows, list):
        raise UserError(f"{file} holds a {type(rows).__name__}, not a list of pictures")
    if not rows:
        raise UserError(
            f"{file} is empty: a split needs at least one picture; else delete the file"
        )
    paths, labels = [], []
    for number, row in enumerate(rows):
        path, label = _entry(row, f"entry {number} of {file}")
        paths.append(path)
        labels.append(label)
    return Entries(paths, Labels.of(labels))


def _entry(row: Any, where: str) -> tuple[str, int | list[int]]:
    if not isinstance(row, dict) or not {"path", "class_id"} <= row.keys():
        raise UserError(f'{where} is {row!r}, not {{"path": ..., "class_id": ...}}')
    path, label = row["path"], row["class_id"]
    if not isinstance(path, str) or not path or path.startswith("/") or ".." in Path(path).parts:
        raise UserError(f"{where} has the path {path!r}: expected a path inside the picture folder")
    ids = label if isinstance(label, list) else [label]
    if not ids or not all(type(value) is int for value in ids):
        raise UserError(
            f"{where} has the class_id {label!r}: expected an integer or a list of them"
        )
    return path, label


def _class_names(file: Path) -> dict[int, str]:
    if not file.is_file():
        return {}
    names = _read_json(file)
    if isinstance(names, list):
        return dict(enumerate(map(str, names)))
    if isinstance(names, dict) and all(key.lstrip("-").isdigit() for key in names):
        return {int(key): str(name) for key, name in names.items()}
    raise UserError(f"{file} is neither a list of class names nor names by class id: correct it")


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is no UTF-8 text ({error}): fetch it again") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{file} is no JSON ({error}): fetch it again") from None
