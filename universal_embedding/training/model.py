"""The embedder that a config describes."""

import keras
from ml_collections import ConfigDict

from universal_embedding.models.backbones import load_backbone
from universal_embedding.models.embedder import Embedder

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


def make_embedder(config: ConfigDict, pretrained: bool = True) -> Embedder:
    """Builds the model of `config.model`; its first weights are a function of `config.seed`.

    Args:
        config: Of the run.
        pretrained: Whether the backbone's weights are loaded; a checkpoint replaces them anyway.

    Raises:
        UserError: the backbone cannot be loaded.
    """
    keras.utils.set_random_seed(config.seed)
    model = config.model
    keras.config.set_dtype_policy(model.precision)
    try:
        backbone = load_backbone(
            model.backbone, model.image_size, pooling=model.pooling or None, pretrained=pretrained
        )
        return Embedder(
            backbone, model.dimension or None, image_size=model.image_size, aspect=model.aspect
        )
    finally:
        keras.config.set_dtype_policy("float32")
