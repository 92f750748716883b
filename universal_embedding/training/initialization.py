"""Weights that a new run starts from: another run's, or those of an export."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from universal_embedding.datasets.records import Records
from universal_embedding.errors import UserError
from universal_embedding.files import as_path, atomic_write, reporting_unreadable
from universal_embedding.models.backbones import list_towers, rebuild
from universal_embedding.models.embedding_model import EmbeddingModel
from universal_embedding.models.heads import MarginHead
from universal_embedding.models.heads.sharding import ShardedTable, whole_table
from universal_embedding.training.checkpoints import Checkpoints, load_embedding_model, restore
from universal_embedding.training.run_directory import read_config

if TYPE_CHECKING:
    from universal_embedding.training.experiment import Experiment

CLASS_IDS_FILE = "class_ids.npz"
_EXPORTED = "weights/{}/.ATTRIBUTES/VARIABLE_VALUE"  # of export.saved_model.ServingModule


def restore_or_initialize(experiment: "Experiment", checkpoints: Checkpoints) -> str:
    """Restores the state that a run starts from, the first of these that exists.

    1. The newest complete checkpoint of its own run directory: the run resumes there.
    2. The model of `config.init_from`, with its classes if `config.init_head`; step 0.
    3. The pretrained weights of the backbone, which building the model has loaded already.
    4. Random weights, where the backbone has none.

    Args:
        experiment: The run.
        checkpoints: Those of the run.

    Returns:
        A description of the source, for the log.

    Raises:
        UserError: `config.init_from` cannot be used.
    """
    newest = checkpoints.restore_newest()
    if newest:
        return newest
    config = experiment.config
    if not config.init_from:
        if config.init_head:
            raise UserError("config.init_head=True takes the classes of a run; set init_from to it")
        logging.info("no checkpoint to start from: using the initial weights of the backbone")
        return "the initial weights of the backbone"
    source = as_path(config.init_from)
    initialize_model(experiment.model, source)
    if not config.init_head:
        return str(source)
    num_copied, num_classes = _initialize_head(experiment, source)
    return f"{source}, with {num_copied} of {num_classes} classes"


def initialize_model(model: EmbeddingModel, source: Path) -> None:
    """Copies the weights of another model of the same architecture.

    Args:
        model: The model to change.
        source: A run directory, whose best model is taken as evaluation takes it: with averaged
            weights if the run has an EMA, position embeddings resized to `model`'s image size; or a
            SavedModel directory written by `export`.

    Raises:
        UserError: `source` is neither, or its weights have other shapes.
    """
    if (source / "saved_model.pb").is_file():
        values = _read_exported(source)
    elif (source / "config.json").is_file():
        values = _read_run(source, model.backbone)
    else:
        raise UserError(
            f"init_from={source} is neither a run directory (config.json) nor a SavedModel "
            "(saved_model.pb); pretrained backbones are named by config.model.backbone"
        )
    shapes = [tuple(weight.shape) for weight in model.weights]
    if shapes != [value.shape for value in values]:
        different = [
            f"{weight.path} {tuple(weight.shape)}, not {value.shape}"
            for weight, value in zip(model.weights, values, strict=False)
            if tuple(weight.shape) != value.shape
        ]
        reason = different[0] if different else f"{len(shapes)} weights, not {len(values)}"
        raise UserError(
            f"init_from={source} has another architecture (this run's model has {reason}); give "
            "config.model the values of that model"
        )
    for weight, value in zip(model.weights, values, strict=True):
        weight.assign(value)


def save_class_ids(workdir: Path, records: Mapping[str, Records]) -> None:
    """Writes the class ids of each domain in the order of the head's classes."""
    ids = [np.unique(r.labels.values) for r in records.values()]
    sizes = [len(values) for values in ids]
    with atomic_write(workdir / CLASS_IDS_FILE, "wb") as file:
        np.savez_compressed(file, domains=[*records], sizes=sizes, ids=np.concatenate(ids))


def _read_run(workdir: Path, backbone: keras.Model) -> list[np.ndarray]:
    """The weights of a run's model, with position embeddings of the size that `backbone` has."""
    model = load_embedding_model(workdir)
    pairs = zip(list_towers(model.backbone), list_towers(backbone), strict=False)
    weights = [
        weight
        for old, new in pairs
        for weight in (
            old if old.input_shape == new.input_shape else rebuild(old, new.input_shape[1])
        ).weights
    ]
    weights += model.weights[len(model.backbone.weights) :]
    return [weight.numpy() for weight in weights]


def _read_exported(folder: Path) -> list[np.ndarray]:
    with reporting_unreadable(folder, "write it again with `universal-embedding export`"):
        reader = tf.compat.v1.train.NewCheckpointReader(str(folder / "variables" / "variables"))
        names = reader.get_variable_to_shape_map()
        count = next(i for i in range(len(names) + 1) if _EXPORTED.format(i) not in names)
        values = [reader.get_tensor(_EXPORTED.format(i)) for i in range(count)]
    if not values:
        raise UserError(
            f"init_from={folder} is a SavedModel of another program; write it with "
            "`universal-embedding export`, or give a run directory"
        )
    return values


def read_class_weights(workdir: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Reads the classes of a run's best checkpoint.

    Returns:
        By domain the class ids `[C]` int64 and the weights `[C, K, D]` of their K sub-centers;
        empty if the run has no classifier.

    Raises:
        UserError: the run has no checkpoint, or a file is damaged.
    """
    path, losses = workdir / CLASS_IDS_FILE, read_config(workdir)["config"]["losses"]
    if not path.is_file() or not (losses["classification"]["weight"] or losses["udon"]["weight"]):
        return {}
    with (
        reporting_unreadable(path, "train the run again"),
        as_path(path).open("rb") as file,
        np.load(file) as archive,
    ):
        parts = np.split(archive["ids"], np.cumsum(archive["sizes"])[:-1])
        class_ids = dict(zip(archive["domains"].tolist(), parts, strict=True))
    reader = tf.compat.v1.train.NewCheckpointReader(restore(workdir, {}, "best"))
    head = read_config(workdir)["config"]["head"]
    count = 1 if head["joint"] else len(class_ids)
    rows = [reader.get_tensor(f"heads/{i}/.ATTRIBUTES/VARIABLE_VALUE") for i in range(count)]
    by_domain = _split_rows(rows, class_ids, head["num_subcenters"])
    return {domain: (class_ids[domain], by_domain[domain]) for domain in class_ids}


def _initialize_head(experiment: "Experiment", source: Path) -> tuple[int, int]:
    """Copies the class weights whose domain and id the source has.

    Returns:
        The number of classes copied, and of all classes.
    """
    head = _find_head(experiment)
    class_ids = {d: np.unique(r.labels.values) for d, r in experiment.records.items()}
    source_rows = read_class_weights(source) if (source / "config.json").is_file() else {}
    if not source_rows:
        raise UserError(
            f"config.init_head=True, but {source} has no classes; give a run with a classifier"
        )
    shape = (head.num_subcenters, head.class_weights[0].shape[-1])
    rows = {domain: np.zeros((len(ids), *shape), np.float32) for domain, ids in class_ids.items()}
    is_new = {domain: np.zeros((len(ids), shape[0]), bool) for domain, ids in class_ids.items()}
    num_copied = 0
    for domain in set(rows) & set(source_rows):
        source_ids, values = source_rows[domain]
        if values.shape[1:] != rows[domain].shape[1:]:
            raise UserError(
                f"config.init_head=True, but the classes of {source} have {values.shape[1]} "
                f"sub-centers of {values.shape[2]} dimensions, and those of this run "
                f"{rows[domain].shape[1]} of {rows[domain].shape[2]}; set config.init_head=False"
            )
        _, new, old = np.intersect1d(class_ids[domain], source_ids, return_indices=True)
        rows[domain][new], is_new[domain][new] = values[old], True
        num_copied += len(new)
    tables = [whole_table(variable) for variable in head.class_weights]
    flat = np.concatenate([values.reshape(-1, shape[1]) for values in rows.values()])
    mask = np.concatenate([values.reshape(-1) for values in is_new.values()])
    ends = np.cumsum([table.shape[0] for table in tables])[:-1]
    for table, values, changed in zip(
        tables, np.split(flat, ends), np.split(mask, ends), strict=True
    ):
        if isinstance(table, ShardedTable):
            table.assign(values, changed)
        else:
            table.assign(np.where(changed[:, None], values, table.numpy()))
    return num_copied, sum(map(len, class_ids.values()))


def _find_head(experiment: "Experiment") -> MarginHead:
    heads = [loss.head for _, loss in experiment.losses.values() if loss.head is not None]
    if not heads:
        raise UserError(
            "config.init_head=True needs config.losses.classification or config.losses.udon"
        )
    return heads[0]


def _split_rows(
    weights: Sequence[np.ndarray], class_ids: Mapping[str, np.ndarray], num_subcenters: int
) -> dict[str, np.ndarray]:
    """`[C, K, D]` class weights by domain, of one array for all domains or one for each."""
    rows = np.concatenate(weights)
    rows = rows.reshape(-1, num_subcenters, rows.shape[-1])
    ends = np.cumsum([len(ids) for ids in class_ids.values()])
    return dict(zip(class_ids, np.split(rows, ends[:-1]), strict=True))
