"""Cost of a model: parameters, FLOPs of an image, and what joined backbones cost in speed."""

import functools
import time
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from universal_embedding.models.backbones import FusedBackbone, list_towers
from universal_embedding.models.backbones.fusion import split_size
from universal_embedding.models.embedding_model import EmbeddingModel
from universal_embedding.training.dry_run.flops import count_flops
from universal_embedding.training.dry_run.step_graph import read_graph

BATCH_SIZE, ROUNDS = 4, 5


def describe_cost(model: EmbeddingModel, names: Sequence[str]) -> list[str]:
    """Describes what an image costs, and for joined backbones how much of it each takes.

    Rates are measured here and now, on batches of 4 from memory that alternate between the models;
    only their ratios mean something on another machine.

    Args:
        model: The model.
        names: Names of its backbones.

    Returns:
        One line for the model, and one for each of several backbones.
    """
    size = model.image_size

    def whole(images: tf.Tensor) -> tf.Tensor:
        return model(images, training=False)

    lines = [f"cost: {_describe(model.count_params(), _image_flops(whole, size))} at {size} pixels"]
    if not isinstance(model.backbone, FusedBackbone):
        return lines
    towers = [functools.partial(model.tower_features, i) for i in range(len(model.backbone.towers))]
    images = tf.zeros([BATCH_SIZE, size, size, 3])
    seconds = _measure([whole, *towers], images)
    lines[0] += f", {BATCH_SIZE / seconds[0]:.1f} images/s here"
    for name, function, tower, tower_seconds, tower_size in zip(
        names,
        towers,
        list_towers(model.backbone),
        seconds[1:],
        model.backbone.tower_sizes,
        strict=True,
    ):
        cost = _describe(tower.count_params(), _image_flops(function, size))
        ratio = f"alone {seconds[0] / tower_seconds:.2f} times the images/s of all together"
        lines.append(f"  {split_size(name)[0]} at {tower_size} pixels: {cost}, {ratio}")
    return lines


def _describe(num_params: int, flops: int) -> str:
    return f"{num_params / 1e6:.2f} M parameters, {flops / 1e9:.2f} GFLOPs per image"


def _image_flops(function: Callable, size: int) -> int:
    """FLOPs of one image: two for each multiply-add."""
    spec = tf.TensorSpec([1, size, size, 3], tf.float32)
    return count_flops(read_graph(tf.function(function).get_concrete_function(spec).graph))


def _measure(functions: Sequence[Callable], images: tf.Tensor) -> list[float]:
    """The median seconds of a call of each function, in rounds of one call each."""
    compiled = [tf.function(function) for function in functions]
    times = np.empty([ROUNDS + 1, len(functions)])
    for row in times:
        for column, function in enumerate(compiled):
            start = time.perf_counter()
            function(images).numpy()
            row[column] = time.perf_counter() - start
    return np.median(times[1:], axis=0).tolist()  # the first round traces
