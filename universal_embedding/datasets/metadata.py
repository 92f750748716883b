"""Metadata of a prepared folder: TFDS's description, the options, the names of the classes."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from etils import epath

from universal_embedding.errors import UserError
from universal_embedding.files import atomic_write, reporting_unreadable

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

CLASS_NAMES_FILE = "class_names.json"
OPTIONS_FILE = "options.json"  # its presence makes a folder a prepared one


def open_builder(folder: epath.Path) -> "tfds.core.DatasetBuilder":
    """Opens the TFDS builder of a prepared folder.

    Raises:
        UserError: The folder's description is damaged.
    """
    import tensorflow_datasets as tfds
    from absl import logging

    level = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)  # TFDS logs a line for each folder
    try:
        with reporting_unreadable(folder, "delete it and prepare it again"):
            _check_features(folder)
            builder = tfds.builder_from_directory(folder)
            _check_shard_paths(folder, builder.info.splits.values())
            return builder
    except FileNotFoundError as error:
        missing = error.filename or "its description"
        raise UserError(f"{folder}: {missing} is missing; delete it and prepare it again") from None
    finally:
        logging.set_verbosity(level)


def read_options(folder: epath.Path) -> dict[str, Any] | None:
    """The options that a folder was prepared with; None if it is not prepared, or not whole.

    Raises:
        UserError: The file is damaged.
    """
    path = folder / OPTIONS_FILE
    try:
        with reporting_unreadable(path, f"delete {folder} and prepare it again"):
            return dict(_read_json(path))
    except FileNotFoundError:
        return None


def write_class_names(folder: epath.Path, class_names: Mapping[int, str]) -> None:
    """Writes the names of classes by id."""
    names = {str(class_id): name for class_id, name in sorted(class_names.items())}
    with atomic_write(folder / CLASS_NAMES_FILE) as file:
        json.dump(names, file, ensure_ascii=False)


def read_class_names(folder: epath.Path) -> dict[int, str]:
    """Reads the names by class id, empty where none are known.

    Raises:
        UserError: The file is damaged.
    """
    path = folder / CLASS_NAMES_FILE
    try:
        with reporting_unreadable(path, f"delete {folder} and prepare it again"):
            return {int(class_id): str(name) for class_id, name in _read_json(path).items()}
    except FileNotFoundError:
        return {}


def _check_features(folder: epath.Path) -> None:
    """Refuses a description that names a class of another module, which TFDS would import."""
    names = [name for name in _list_strings(_read_json(folder / "features.json")) if "." in name]
    foreign = [name for name in names if not name.startswith("tensorflow_datasets.core.features.")]
    if foreign:
        raise ValueError(f"its features.json names {foreign[0]!r}, which is no feature of TFDS")


def _check_shard_paths(folder: epath.Path, splits: Iterable[Any]) -> None:
    """Refuses a description whose file names lead out of the folder."""
    paths = [os.fspath(path) for split in splits for path in split.filepaths]
    outside = [path for path in paths if os.path.dirname(path) != os.fspath(folder)]
    if outside:
        raise ValueError(f"its dataset_info.json names {outside[0]}, outside of the folder")


def _list_strings(value: Any) -> Iterator[str]:
    """Every string of a JSON value, whatever its key."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _list_strings(inner)


def _read_json(path: epath.Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
