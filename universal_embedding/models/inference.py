"""Inference over prepared records, on all replicas of all hosts of a strategy."""

import functools
import itertools
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from universal_embedding.input.corrupt_images import report_corrupt_image
from universal_embedding.input.pipeline import evaluation_batches
from universal_embedding.models.distribution import (
    Pace,
    all_reduce_max,
    assert_files_on_host,
    distribute,
    num_hosts_and_id,
    poll,
)

if TYPE_CHECKING:
    from universal_embedding.datasets.records import Records

MAX_BATCHES_PER_CALL = 16


class RecordEmbedder:
    """A model that embeds prepared records, compiled once for all of them.

    Each replica of each host embeds its slice of every batch; all hosts get all rows. Input,
    transfer and computation of the batches of one call overlap.

    Args:
        model: Called as `model(images, training=False)`, `[b, S, S, 3]` float32 in 0..255 ->
            `[b, D]`: an `EmbeddingModel`, its `features`, or a backbone.
        strategy: The strategy in whose scope the model was created.
        image_size: S in pixels.
        resize_mode: How images become squares; see `input.resizing.resize`.
        batch_size: Images per replica, b. Rows depend neither on it nor on the number of replicas,
            but for the rounding of the last digits.
    """

    def __init__(
        self,
        model: Callable[..., tf.Tensor],
        strategy: tf.distribute.Strategy,
        image_size: int,
        resize_mode: str = "squash",
        batch_size: int = 64,
    ) -> None:
        self._model, self._strategy = model, strategy
        self._image_size, self._resize_mode = image_size, resize_mode
        self._batch_size = batch_size * strategy.num_replicas_in_sync
        self._run = tf.function(self._embed_batches)

    def __call__(self, records: "Records", show_progress: bool = True) -> np.ndarray:
        """Embeds every image once, without augmentation; each host must call it.

        Args:
            records: N images.
            show_progress: Whether to show a progress bar on a terminal.

        Returns:
            `[N, D]` float32 in the order of the records.

        Raises:
            UserError: An image cannot be decoded.
            ValueError: There are no records.
        """
        if not len(records):
            raise ValueError(f"domain {records.domain!r}, split {records.split!r}, has no records")
        show_progress = show_progress and num_hosts_and_id(self._strategy)[1] == 0
        blocks = []
        with tqdm(
            total=len(records),
            desc=f"{records.domain} {records.split}",
            unit="image",
            disable=None if show_progress else True,  # None: only on a terminal
            leave=False,
        ) as bar:
            for rows in self.embed_blocks(records):
                blocks.append(rows)
                bar.update(len(rows))
        return np.concatenate(blocks)

    def embed_blocks(self, records: "Records", start: int = 0) -> Iterator[np.ndarray]:
        """Yields the rows of the records from `start` on, `[n, D]` float32 by block, in order.

        Raises:
            UserError: An image cannot be decoded.
        """
        pace = Pace(MAX_BATCHES_PER_CALL)
        iterator = self._batches(records, start)
        while start < len(records):
            num_left = -(-(len(records) - start) // self._batch_size)
            num_batches = min(pace.steps, num_left)
            size = min(num_batches * self._batch_size, len(records) - start)
            ahead = range(start, min(start + size + 4 * self._batch_size, len(records)))
            start_time = time.monotonic()
            with report_corrupt_image(functools.partial(zip, itertools.repeat(records), ahead)):
                rows = self._run(iterator, tf.constant(num_batches)).numpy()
            (seconds,) = all_reduce_max([time.monotonic() - start_time], self._strategy)
            pace.update(num_batches, seconds)
            start += size
            yield rows.reshape(-1, rows.shape[-1])[:size]
            poll()

    def _batches(self, records: "Records", start: int) -> Iterator:
        """The images from record `start` on, for every replica, without end."""

        def host_batches(num_hosts: int, host_id: int) -> tf.data.Dataset:
            if num_hosts > 1:
                assert_files_on_host(records.shard_paths[:1], host_id)
            batches = evaluation_batches(
                records,
                self._batch_size,
                self._image_size,
                self._resize_mode,
                start,
                num_hosts,
                host_id,
            )
            return batches.map(lambda batch: batch["image"]).repeat()  # the loop knows the end

        return distribute(host_batches, self._strategy)

    def _embed_batches(self, iterator: Iterator, num_batches: tf.Tensor) -> tf.Tensor:
        """`[batches, B, D]` float32 of the next batches, on every host."""
        rows = tf.TensorArray(tf.float32, num_batches)
        for i in tf.range(num_batches):
            embeddings = self._strategy.run(self._embed, args=(next(iterator),))
            rows = rows.write(i, self._strategy.gather(embeddings, axis=0))
        return rows.stack()

    def _embed(self, images: tf.Tensor) -> tf.Tensor:
        return tf.cast(self._model(images, training=False), tf.float32)
