"""The embedder that a config describes."""

import json
from pathlib import Path

import keras
from ml_collections import ConfigDict

from universal_embedding.errors import UserError
from universal_embedding.models.backbones import from_json, load_backbone, to_json
from universal_embedding.models.embedder import Embedder

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
FILE = "backbone.json"


def make_embedder(config: ConfigDict) -> Embedder:
    """Builds the model of `config.model`; what is random in it is a function of `config.seed`.

    Raises:
        UserError: the backbone cannot be loaded, or there is no such precision.
    """
    keras.utils.set_random_seed(config.seed)
    model = config.model
    if model.precision not in PRECISIONS:
        raise UserError(
            f"config.model.precision is {model.precision!r}; it must be one of {PRECISIONS}"
        )
    backbone = load_backbone(
        model.backbone,
        model.image_size,
        pooling=model.pooling or None,
        dtype=model.precision,
        remat=model.remat,
    )
    return _over(backbone, model)


def save_architecture(workdir: Path, embedder: Embedder) -> None:
    """Writes what `rebuild_embedder` needs into a work directory."""
    workdir.mkdir(parents=True, exist_ok=True)
    partial = workdir / f"{FILE}.partial"
    partial.write_text(to_json(embedder.backbone))
    partial.replace(workdir / FILE)


def rebuild_embedder(workdir: Path, config: ConfigDict) -> Embedder:
    """The embedder of a run with fresh weights; its preset or backbone file may be gone.

    Raises:
        UserError: the run has not saved its architecture.
    """
    try:
        text = (workdir / FILE).read_text()
        json.loads(text)
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{workdir / FILE} cannot be read: {error}; train the run again") from error
    return _over(from_json(text), config.model)


def _over(backbone: keras.Model, model: ConfigDict) -> Embedder:
    return Embedder(
        backbone,
        model.dimension or None,
        image_size=model.image_size,
        aspect=model.aspect,
    )
