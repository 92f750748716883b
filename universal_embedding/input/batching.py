"""Batching that reports which image failed to decode.

An error within a data set neither says which element it met nor lets the others continue. So
elements carry a position, failing ones are left out, and a batch that lacks a position is handed to
Python, which knows from the position which record it was.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import tensorflow as tf

from universal_embedding.datasets.records import Records
from universal_embedding.errors import UserError
from universal_embedding.input.images import decode

POSITION = "position"  # entry of an element: its place in the order of all elements
_MARK = "Corrupt image: "


def batch_with_error_reporting(
    examples: tf.data.Dataset,
    batch_size: int,
    expected_positions: Callable[[tf.Tensor], tf.Tensor],
    on_missing: Callable[[int], None],
    finish: Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]],
) -> tf.data.Dataset:
    """Batches elements in order, all of them or an error that names the image that failed.

    Args:
        examples: Dicts with an int64 `position`; elements may fail.
        batch_size: Size of the batches.
        expected_positions: From a batch's index (int64, from 0) to its `[batch_size]` positions.
        on_missing: Called with the index of the first incomplete batch; raises the reason.
        finish: Applied to each batch.

    Returns:
        The batches. Iterating raises a `tf.errors.OpError`; see `report_corrupt_image`.
    """

    def fail(batch_index: np.ndarray) -> np.ndarray:
        on_missing(int(batch_index))
        raise RuntimeError(f"batch {batch_index} lost an image, though each can be decoded")

    def check(batch_index: tf.Tensor, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        complete = tf.reduce_all(batch[POSITION] == expected_positions(batch_index))
        assertion = tf.cond(
            complete,
            lambda: complete,
            lambda: tf.ensure_shape(tf.numpy_function(fail, [batch_index], tf.bool), []),
        )
        with tf.control_dependencies([assertion]):
            return finish({name: tf.identity(value) for name, value in batch.items()})

    batches = examples.ignore_errors().batch(batch_size, drop_remainder=True)
    return keep_order(batches.enumerate().map(check, num_parallel_calls=1).prefetch(2))


def assert_decodable(records: Records, record: int) -> None:
    """Decodes one image.

    Raises:
        UserError: it cannot be decoded; the message names its domain and id.
    """
    try:
        decode(tf.constant(records.read([record])[0]))
    except tf.errors.InvalidArgumentError as error:
        reason = re.sub(r"\{\{.*?\}\} *|\[Op:.*", "", error.message).splitlines()[0]
        raise UserError(
            f"{_MARK}{records.image_ids[record]!r} of domain {records.domain!r}, split "
            f"{records.split!r}, cannot be decoded ({reason.strip()}); prepare the data again"
        ) from None


@contextmanager
def report_corrupt_image() -> Iterator[None]:
    """Turns a data set's error about an image that cannot be decoded into a `UserError`.

    Raises:
        UserError: the block raised such an error; other errors pass through.
    """
    try:
        yield
    except tf.errors.OpError as error:
        message = re.search(rf"{_MARK}[^\n]*", error.message)
        if not message:
            raise
        raise UserError(message[0]) from None


def call_numpy(
    function: Callable[[np.ndarray], tuple[np.ndarray, ...]],
    argument: tf.Tensor,
    spec: Mapping[str, tf.TensorSpec],
) -> dict[str, tf.Tensor]:
    """Calls a numpy function within the graph; names its outputs and sets their static shapes."""
    outputs = tf.numpy_function(function, [argument], [s.dtype for s in spec.values()])
    return {
        name: tf.ensure_shape(output, spec[name].shape)
        for name, output in zip(spec, outputs, strict=True)
    }


def keep_order(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Keeps the order of a data set's elements, and all of them on each host."""
    options = tf.data.Options()
    options.deterministic = True
    # Hosts take their own slices by position; nothing else may split the data.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.with_options(options)
