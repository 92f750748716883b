"""Batches of pictures that are made one by one; a picture that cannot be made is named.

An error inside a data set says neither which element it met nor lets the others go on. So pictures
are numbered, failing ones are left out, and a batch in which a number is missing is handed to
Python, which knows from the number which record it was.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import tensorflow as tf

from universal_embedding.datasets.records import Records
from universal_embedding.errors import UserError
from universal_embedding.input.decoding import decode

NUMBER = "number"  # the entry of an element that holds its number
_MARK = "Unusable picture: "


def batched(
    pictures: tf.data.Dataset,
    size: int,
    numbers: Callable[[tf.Tensor], tf.Tensor],
    explain: Callable[[int], None],
    finish: Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]],
) -> tf.data.Dataset:
    """Batches of elements in order, all of them or an error.

    Args:
        pictures: Dicts with an int64 `number`; elements may fail.
        size: Of a batch.
        numbers: From a batch's number (int64, from 0) to the `[size]` numbers it must hold.
        explain: Called with the number of the first incomplete batch; raises the reason.
        finish: Applied to each batch.

    Returns:
        The batches. Iterating raises a `tf.errors.OpError`; see `naming_pictures`.
    """

    def fail(batch: np.ndarray) -> np.ndarray:
        explain(int(batch))
        raise RuntimeError(f"a picture of batch {batch} was lost, though each can be decoded")

    def check(index: tf.Tensor, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        complete = tf.reduce_all(batch[NUMBER] == numbers(index))
        checked = tf.cond(
            complete,
            lambda: complete,
            lambda: tf.ensure_shape(tf.numpy_function(fail, [index], tf.bool), []),
        )
        with tf.control_dependencies([checked]):
            return finish({name: tf.identity(value) for name, value in batch.items()})

    batches = pictures.ignore_errors().batch(size, drop_remainder=True)
    options = tf.data.Options()
    options.deterministic = True
    # Hosts take their own parts by position; nothing else may divide the data.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return batches.enumerate().map(check, num_parallel_calls=1).prefetch(2).with_options(options)


def check_decodes(records: Records, record: int) -> None:
    """Decodes one picture; UserError with its domain and id if that fails."""
    try:
        decode(tf.constant(records.read([record])[0]))
    except tf.errors.InvalidArgumentError as error:
        reason = re.sub(r"\{\{.*?\}\} *|\[Op:.*", "", error.message).splitlines()[0]
        raise UserError(
            f"{_MARK}{records.image_ids[record]!r} of domain {records.domain!r}, split "
            f"{records.split!r}, cannot be decoded ({reason.strip()}); prepare the data again"
        ) from None


@contextmanager
def naming_pictures() -> Iterator[None]:
    """Turns the error of a data set about a picture that cannot be decoded into a `UserError`."""
    try:
        yield
    except tf.errors.OpError as error:
        found = re.search(rf"{_MARK}[^\n]*", error.message)
        if not found:
            raise
        raise UserError(found[0]) from None


@cache
def blank() -> bytes:
    """An encoded picture that stands where there is none."""
    return tf.io.encode_png(tf.fill([1, 1, 3], tf.constant(127, tf.uint8))).numpy()
