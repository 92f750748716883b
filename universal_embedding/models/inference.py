"""Inference over prepared records, on all replicas of a strategy."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from universal_embedding.input.corrupt_images import report_corrupt_image
from universal_embedding.input.pipeline import evaluation_batches

if TYPE_CHECKING:
    from universal_embedding.datasets.records import Records

EmbedFn = Callable[[tf.Tensor], np.ndarray]


def make_embed_fn(model: Callable[..., tf.Tensor], strategy: tf.distribute.Strategy) -> EmbedFn:
    """Compiles a function from `[b, S, S, 3]` images in 0..255 to the model's `[b, D]` float32.

    The images are split over the replicas of this host; a batch that does not divide is padded.

    Args:
        model: Called as `model(images, training=False)`: an `EmbeddingModel`, its `features`, or a
            backbone.
        strategy: The strategy on whose replicas it runs; the model was created in its scope.
    """
    compiled = tf.function(lambda images: tf.cast(model(images, training=False), tf.float32))
    if strategy.num_replicas_in_sync == 1:
        return lambda images: compiled(images).numpy()

    def embed(images: tf.Tensor) -> np.ndarray:
        num_replicas = len(strategy.extended.worker_devices)
        images = tf.convert_to_tensor(images)
        padding = -len(images) % num_replicas
        padded = tf.pad(images, [[0, padding], [0, 0], [0, 0], [0, 0]])
        slices = iter(tf.split(padded, num_replicas))
        values = strategy.experimental_distribute_values_from_function(lambda _: next(slices))
        results = strategy.experimental_local_results(strategy.run(compiled, args=(values,)))
        return np.concatenate([result.numpy() for result in results])[: len(images)]

    return embed


def embed_records(
    embed_fn: Callable[[tf.Tensor], np.ndarray | tf.Tensor],
    records: "Records",
    image_size: int,
    resize_mode: str = "squash",
    batch_size: int = 64,
    show_progress: bool = True,
    out: np.ndarray | None = None,
    description: str | None = None,
    progress_bar: tqdm | None = None,
) -> np.ndarray:
    """Embeds every image of `records` once, without augmentation.

    Args:
        embed_fn: Maps `[B, S, S, 3]` float32 in 0..255 to `[B, D]`; see `make_embed_fn`.
        records: N images.
        image_size: S in pixels.
        resize_mode: How images become squares; see `input.resizing.resize`.
        batch_size: B; the last batch is padded.
        show_progress: Whether to show a progress bar on a terminal.
        out: `[N, D]` float32 array to fill, such as a memory-mapped file; None allocates one.
        description: Text of the progress bar; by default the domain and split.
        progress_bar: A bar over several records to advance by one per image, in place of a new one.

    Returns:
        `[N, D]` float32 in the order of the records; `out` if it was given.

    Raises:
        UserError: An image cannot be decoded.
        ValueError: There are no records, and no `out` that gives D.
    """
    batches = evaluation_batches(records, batch_size, image_size, resize_mode)
    bar = progress_bar
    if bar is None:
        bar = tqdm(
            total=len(records),
            desc=description or f"{records.domain} {records.split}",
            unit="image",
            disable=None if show_progress else True,  # None: only on a terminal
            leave=False,
        )
    num_done = 0
    try:
        with report_corrupt_image(
            lambda: ((records, i) for i in range(num_done, len(records))[:batch_size])
        ):
            for batch in batches:
                rows = np.asarray(embed_fn(batch["image"]), np.float32)
                indices, mask = batch["record"].numpy(), batch["mask"].numpy()
                if out is None:
                    out = np.empty((len(records), rows.shape[1]), np.float32)
                out[indices[mask]] = rows[mask]
                num_done += int(mask.sum())
                bar.update(int(mask.sum()))
    finally:
        if bar is not progress_bar:
            bar.close()
    if out is None:
        raise ValueError(f"domain {records.domain!r}, split {records.split!r}, has no records")
    return out
