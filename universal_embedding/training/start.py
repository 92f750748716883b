"""Where a run's weights come from, decided in one place."""

from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf
from absl import logging

from universal_embedding.training.checkpoints import Checkpoints, restore


def find_start(
    checkpoints: Checkpoints,
    embedder_weights: Sequence[tf.Variable],
    given: Path | None,
) -> str:
    """Restores the state that a run starts from; the first that there is of:

    1. the newest whole checkpoint of its own work directory: the run goes on where it was;
    2. the work directory given with --init_from: its best embedder, a new head, step 0;
    3. the backbone's pretrained weights, which building the model has already loaded;
    4. random weights, if the backbone has none.

    Returns:
        What it was, for the log.
    """
    own = checkpoints.restore_newest()
    if own:
        return own
    if given is not None:
        return restore(given, {"embedder": embedder_weights}, "best")
    logging.info("no checkpoint to start from: the weights are those the backbone came with")
    return "the backbone's own weights"
