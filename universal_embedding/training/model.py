"""Builds the embedding model of a config, and saves its architecture in the run directory."""

import contextlib
from pathlib import Path

import keras
import tensorflow as tf
from ml_collections import ConfigDict

from universal_embedding.errors import UserError
from universal_embedding.files import atomic_write, reporting_unreadable
from universal_embedding.models.backbones import (
    FusedBackbone,
    from_json,
    load_backbone,
    split_spec,
    to_json,
)
from universal_embedding.models.embedding_model import EmbeddingModel

DTYPE_POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")
_ARCHITECTURE_FILE = "backbone.json"


def build_model(
    config: ConfigDict, strategy: tf.distribute.Strategy | None = None, pretrained: bool = True
) -> EmbeddingModel:
    """Builds the model of `config.model`; its random weights are a function of `config.seed`.

    Position embeddings stay as they were learned: every image size, that of a stage or of the
    model, is interpolated from them, so the sizes in between leave no trace.

    Args:
        config: The config of the run.
        strategy: Where the weights are created; None is the current scope.
        pretrained: Whether the backbone has its pretrained weights, or random ones.

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
    standardizes = model.standardize or len(split_spec(model.backbone)) > 1
    if not 0 < model.feature_power <= 1 or (model.feature_power < 1 and not standardizes):
        raise UserError(
            f"config.model.feature_power is {model.feature_power}; it must be in (0, 1], and 1 "
            "unless config.model.standardize=True"
        )
    backbone = load_backbone(
        model.backbone,
        model.image_size,
        pooling=model.pooling or None,
        dtype=model.dtype_policy,
        remat=model.remat,
        pretrained=pretrained,
        keep_positions=True,
        strategy=strategy,
    )
    with strategy.scope() if strategy else contextlib.nullcontext():
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
    path, remedy = workdir / _ARCHITECTURE_FILE, "train the run again"
    try:
        with reporting_unreadable(path, remedy):
            backbone = from_json(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {remedy}") from None
    return _embedding_model(backbone, config.model)


def _embedding_model(backbone: keras.Model, model: ConfigDict) -> EmbeddingModel:
    return EmbeddingModel(
        backbone,
        model.embedding_dim or None,
        image_size=model.image_size,
        resize_mode=model.resize_mode,
        projection_bias=model.projection_bias,
        standardize=model.standardize or isinstance(backbone, FusedBackbone),
        feature_power=model.feature_power,
    )
