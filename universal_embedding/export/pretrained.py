"""Opens a model from what a user names: a run, an export, a Keras file or a pretrained backbone."""

import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from universal_embedding.errors import UserError
from universal_embedding.export import networks, saved_model, zip_archive
from universal_embedding.export.preprocess import preprocess
from universal_embedding.files import as_path, fetch, reporting_unreadable
from universal_embedding.models.backbones import is_hub_handle, load_backbone
from universal_embedding.models.embedding_model import EmbeddingModel

DEFAULT_IMAGE_SIZE = 224


@dataclass(frozen=True)
class PretrainedModel:
    """A model that is ready to embed.

    Attributes:
        kind: `run directory (best checkpoint)`, `SavedModel`, `Keras file`, `backbone`, or the
            suffix of a network of another runtime.
        embed: uint8 images `[B, H, W, 3]` -> `[B, D]` float32.
        embed_encoded: Encoded images, string `[B]` -> `[B, D]` float32; None for a SavedModel of
            another program that lacks this signature.
        embedding_dim: D.
        image_size: Side of the model's input in pixels; None where a SavedModel does not tell.
        fingerprint: sha256 of a SavedModel's files, or of the weights and the input size of
            another model.
        prepare: Turns the pixels of an image into what `embed` takes, `[S, S, 3]` float32; None:
            `embed` resizes by itself.
    """

    kind: str
    embed: Callable[[tf.Tensor], tf.Tensor]
    embed_encoded: Callable[[tf.Tensor], tf.Tensor] | None
    embedding_dim: int
    image_size: int | None
    fingerprint: str
    prepare: Callable[[np.ndarray], np.ndarray] | None = None


def open_pretrained(
    path: str | os.PathLike,
    checkpoint: str = "best",
    image_size: int | None = None,
    resize_mode: str = "squash",
) -> PretrainedModel:
    """Opens the model at `path`; see `Embedder.from_pretrained`.

    Raises:
        UserError: There is no such model, or it cannot be loaded.
    """
    name = os.fspath(path)
    directory = locate_model(path)
    is_saved_model = (directory / "saved_model.pb").is_file()
    if is_saved_model or directory.suffix == ".zip":
        _refuse_image_size(image_size, name, "an export")
        if is_saved_model:
            return _from_saved_model(directory, name)
        with tempfile.TemporaryDirectory() as scratch:
            zip_archive.extract_zip(directory, scratch)
            return _from_saved_model(Path(scratch), name)
    if directory.suffix in networks.SUFFIXES.values():
        _refuse_image_size(image_size, name, "an export")
        return _from_network(directory)
    if is_run_directory(directory):
        from universal_embedding.training.checkpoints import load_embedding_model

        _refuse_image_size(image_size, name, "a run")
        model = load_embedding_model(directory, checkpoint)
        return _from_embedding_model(model, f"run directory ({checkpoint} checkpoint)")
    if _is_embedding_model_file(directory):
        _refuse_image_size(image_size, name, "an EmbeddingModel")
        with reporting_unreadable(directory, "save the model again"):
            model = keras.saving.load_model(directory)
        return _from_embedding_model(model, "Keras file")
    if directory.is_dir() and not any(directory.glob("*.json")):
        raise UserError(
            f"{name} is a directory without a run (config.json), a SavedModel (saved_model.pb) or "
            "a preset of KerasHub: name a directory that holds one"
        )
    backbone = load_backbone(name, image_size or DEFAULT_IMAGE_SIZE)
    model = EmbeddingModel(backbone, None, backbone.input_shape[1], resize_mode)
    return _from_embedding_model(model, "backbone")


def locate_model(path: str | os.PathLike) -> Path:
    """The files of a model: a run directory where it is, anything else on a local disk.

    Raises:
        UserError: A remote path cannot be read.
    """
    if is_hub_handle(os.fspath(path)):
        return Path(path)
    directory = as_path(path)
    return directory if is_run_directory(directory) else fetch(directory)


def read_fingerprint(path: str | os.PathLike) -> str | None:
    """The fingerprint of the model at `path` if its files tell it before anything is loaded.

    Returns:
        That of a SavedModel directory or a submission zip, None for any other model.

    Raises:
        UserError: The zip is damaged or unsafe.
    """
    path = locate_model(path)
    if (path / "saved_model.pb").is_file() or (path.suffix == ".zip" and path.is_file()):
        return zip_archive.fingerprint(path)
    return None


def is_run_directory(path: Path) -> bool:
    """Whether `path` holds the `config.json` of a run, rather than that of a KerasHub preset."""
    try:
        contents = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except OSError:
        return False
    except (ValueError, RecursionError):
        return True  # read_config names the damaged file
    return not (isinstance(contents, dict) and "registered_name" in contents)


def _from_saved_model(directory: Path, source_path: str) -> PretrainedModel:
    fingerprint = zip_archive.fingerprint(directory)
    loaded = saved_model.load_saved_model(directory, source_path)
    signature = saved_model.serving_signature(loaded, source_path)

    # Through `loaded`: a signature alone does not keep the variables alive.
    def embed(images: tf.Tensor) -> tf.Tensor:
        return loaded.signatures[saved_model.SERVING_DEFAULT](images)[saved_model.UNIT_OUTPUT]

    def embed_encoded(encoded: tf.Tensor) -> tf.Tensor:
        return loaded.signatures[saved_model.SERVING_ENCODED](encoded)[saved_model.UNIT_OUTPUT]

    embedding_dim = signature.structured_outputs[saved_model.UNIT_OUTPUT].shape[-1]
    if embedding_dim is None:
        embedding_dim = embed(tf.zeros([1, 1, 1, 3], tf.uint8)).shape[-1]
    image_size = getattr(loaded, "image_size", None)  # only exports of this package have it
    return PretrainedModel(
        "SavedModel",
        embed,
        embed_encoded if saved_model.SERVING_ENCODED in loaded.signatures else None,
        embedding_dim,
        int(image_size) if isinstance(image_size, tf.Variable) else None,
        fingerprint,
    )


def _from_network(path: Path) -> PretrainedModel:
    settings = networks.read_settings(path)
    run = networks.open_network(path)
    return PretrainedModel(
        path.suffix[1:],
        lambda images: tf.constant(run(images.numpy())),
        None,
        int(settings["embedding_dim"]),
        int(settings["image_size"]),
        networks.fingerprint(path),
        lambda pixels: preprocess(pixels, settings),
    )


def _from_embedding_model(model: EmbeddingModel, kind: str) -> PretrainedModel:
    embed, embed_encoded = saved_model.make_signatures(saved_model.to_float32(model))
    return PretrainedModel(
        kind,
        lambda images: embed(images)[saved_model.UNIT_OUTPUT],
        lambda encoded: embed_encoded(encoded)[saved_model.UNIT_OUTPUT],
        model.output_dim,
        model.image_size,
        _weights_fingerprint(model),
    )


def _weights_fingerprint(model: EmbeddingModel) -> str:
    digest = hashlib.sha256(f"{model.image_size} {model.resize_mode}".encode())
    for weight in model.weights:
        value = np.ascontiguousarray(weight.numpy())
        digest.update(f"{value.shape} {value.dtype}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def _is_embedding_model_file(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            config: dict[str, Any] = json.loads(archive.read("config.json"))
    except (OSError, zipfile.BadZipFile, KeyError, ValueError):
        return False
    return config.get("class_name") == EmbeddingModel.__name__


def _refuse_image_size(image_size: int | None, name: str, model_kind: str) -> None:
    if image_size is not None:
        raise UserError(
            f"image_size={image_size} for {name}, which is {model_kind} with an input size of its "
            "own: leave image_size out"
        )
