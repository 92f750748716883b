"""Builds the embedding model of a config, and saves its architecture in the run directory."""

import json
from pathlib import Path

import keras
from ml_collections import ConfigDict

from universal_embedding.errors import UserError
from universal_embedding.files import atomic_write
from universal_embedding.models.backbones import from_json, load_backbone, to_json
from universal_embedding.models.embedding_model import EmbeddingModel

DTYPE_POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")
_ARCHITECTURE_FILE = "backbone.json"


def build_model(config: ConfigDict) -> EmbeddingModel:
    """Builds the model of `config.model`; its random weights are a function of `config.seed`.

    Raises:
        UserError: the backbone cannot be loaded, or `config.model.dtype_policy` is unknown.
    """
    keras.utils.set_random_seed(config.seed)
    model = config.model
    if model.dtype_policy not in DTYPE_POLICIES:
        raise UserError(
            f"config.model.dtype_policy is {model.dtype_policy!r}; it must be one of "
            f"{DTYPE_POLICIES}"
        )
    backbone = load_backbone(
        model.backbone,
        model.image_size,
        pooling=model.pooling or None,
        dtype=model.dtype_policy,
        remat=model.remat,
    )
    return _embedding_model(backbone, model)


def save_architecture(workdir: Path, model: EmbeddingModel) -> None:
    """Writes what `rebuild_model` needs into the run directory."""
    with atomic_write(workdir / _ARCHITECTURE_FILE) as file:
        file.write(to_json(model.backbone))


def rebuild_model(workdir: Path, config: ConfigDict) -> EmbeddingModel:
    """Builds the model of a run with fresh weights, without its preset or backbone file.

    Raises:
        UserError: the run directory has no readable architecture.
    """
    path = workdir / _ARCHITECTURE_FILE
    try:
        text = path.read_text()
        json.loads(text)
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}; train the run again") from error
    return _embedding_model(from_json(text), config.model)


def _embedding_model(backbone: keras.Model, model: ConfigDict) -> EmbeddingModel:
    return EmbeddingModel(
        backbone,
        model.embedding_dim or None,
        image_size=model.image_size,
        resize_mode=model.resize_mode,
    )
