"""Re-reads prepared records and says whether they are what was prepared."""

from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
from tqdm import tqdm

from universal_embedding.datasets.records import Records, open_builder
from universal_embedding.errors import UserError

BATCH = 64


def verify(folder: Path, domain: str, progress: bool = False) -> int:
    """Reads every record of a prepared folder: number, labels, id, and whether it decodes.

    Returns:
        The number of pictures.

    Raises:
        UserError: The first record that is not as it should be.
    """
    remedy = f"delete {folder} and prepare it again"
    try:
        splits = {
            name: info.num_examples for name, info in open_builder(folder).info.splits.items()
        }
        total = sum(splits.values())
        with tqdm(
            total=total, desc=f"verify {domain}", unit=" pictures", disable=not progress
        ) as bar:
            for split in splits:
                for problem in _problems(Records(folder, domain, split)):
                    bar.update()
                    if problem:
                        raise UserError(f"{folder}, split {split!r}, {problem}: {remedy}")
    except (OSError, ValueError, IndexError, RuntimeError) as error:  # of a damaged file
        raise UserError(f"{folder} cannot be read ({error}): {remedy}") from None
    return total


def _problems(records: Records) -> Iterator[str]:
    """For each record, what is wrong with it, or the empty string."""
    for start in range(0, len(records), BATCH):
        numbers = range(start, min(start + BATCH, len(records)))
        for number, example in zip(numbers, records.read_whole(numbers), strict=True):
            yield _problem(records, number, example)


def _problem(records: Records, number: int, example: dict) -> str:
    image_id = example["image_id"].decode("utf-8")
    if image_id != records.image_ids[number]:
        return f"record {number} is {image_id}, not {records.image_ids[number]}"
    labels = [int(label) for label in example["label"]]
    if labels != records.labels[number].tolist():
        return f"record {number} ({image_id}) has labels {labels}, not {records.labels[number]}"
    try:
        tf.io.decode_image(example["image"], channels=3, expand_animations=False)
    except tf.errors.InvalidArgumentError:
        return f"record {number} ({image_id}) does not decode"
    return ""
