"""Finding the image that stopped a data set.

An error within a data set does not say which record it met, and naming it in the graph would take
Python or cost every image something. The batches are a function of the step, so the image is found
afterwards: the records of the failed steps are decoded one by one.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import tensorflow as tf

from universal_embedding.datasets.records import Records
from universal_embedding.errors import UserError
from universal_embedding.input.images import decode

_ERRORS = (
    tf.errors.InvalidArgumentError,
    tf.errors.DataLossError,
    tf.errors.NotFoundError,
    tf.errors.OutOfRangeError,
    tf.errors.InternalError,  # a file is shorter than its map
)


@contextmanager
def report_corrupt_image(
    candidates: Callable[[], Iterable[tuple[Records, int]]],
) -> Iterator[None]:
    """Turns a data set's error about an image that cannot be decoded into a `UserError`.

    Args:
        candidates: The records, with an index each, that the block may have read, in its order;
            called only after an error.

    Raises:
        UserError: the block raised an error of TensorFlow, and one of the records cannot be read or
            decoded; other errors pass through.
    """
    try:
        yield
    except _ERRORS:
        for records, index in candidates():
            assert_decodable(records, index)
        raise


def assert_decodable(records: Records, index: int) -> None:
    """Reads and decodes one image.

    Raises:
        UserError: it cannot be read or decoded; the message names its domain and id.
    """
    try:
        decode(tf.constant(records.read([index])[0]))
    except (tf.errors.OpError, UserError) as error:
        reason = error.message if isinstance(error, tf.errors.OpError) else str(error)
        reason = re.sub(r"\{\{.*?\}\} *|\[Op:.*", "", reason).splitlines()[0].strip()
        raise UserError(
            f"image {records.image_ids[index]!r} of domain {records.domain!r}, split "
            f"{records.split!r}, cannot be read ({reason}); prepare the data again"
        ) from None
