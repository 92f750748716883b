"""Checkpoints of a run: saving, restoring, and where a run starts from."""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import tensorflow as tf
from absl import logging
from ml_collections import ConfigDict

from universal_embedding.errors import UserError
from universal_embedding.models.embedding_model import EmbeddingModel
from universal_embedding.training.model import build_model, rebuild_model
from universal_embedding.training.run_directory import read_config

CHECKPOINTS = ("best", "last", "initial")
State = Mapping[str, Sequence[tf.Variable]]


class Checkpoints:
    """The checkpoints in a run directory.

    `checkpoints/last` holds the newest ones, `checkpoints/best` the one with the best metric.
    `tf.train.Checkpoint` writes them in the background, under another name until they are complete.

    Args:
        workdir: The run directory.
        state: All variables of the run, by owner, in a fixed order.
        max_to_keep: How many of the newest checkpoints to keep.
        is_chief: Whether this process writes into the run directory; the other workers of a
            multi-worker run must save too, and discard theirs.
        background: Whether training continues while a checkpoint is written.
    """

    def __init__(
        self,
        workdir: Path,
        state: State,
        max_to_keep: int = 3,
        is_chief: bool = True,
        background: bool = True,
    ) -> None:
        self._checkpoint = _checkpoint(state)
        if not is_chief:
            self._scratch = tempfile.TemporaryDirectory()
            workdir = Path(self._scratch.name)
        self._options = tf.train.CheckpointOptions(experimental_enable_async_checkpoint=background)
        self._last = self._manager(workdir / "checkpoints" / "last", max_to_keep)
        self._best = self._manager(workdir / "checkpoints" / "best", 1)

    def _manager(self, folder: Path, max_to_keep: int) -> tf.train.CheckpointManager:
        _clean(folder)
        return tf.train.CheckpointManager(
            self._checkpoint, str(folder), max_to_keep, checkpoint_name="step"
        )

    def save(self, step: int) -> None:
        """Saves the state after `step` steps, in the background."""
        self._last.save(step, options=self._options)

    def save_best(self, step: int) -> None:
        """Replaces the best checkpoint by the state after `step` steps."""
        self._best.save(step, options=self._options)

    def wait(self) -> None:
        """Returns when everything saved so far is on disk."""
        self._checkpoint.sync()

    def restore_newest(self) -> str | None:
        """Restores the newest complete checkpoint; its path, or None if there is none.

        A damaged one is skipped with a warning.
        """
        return _restore_first(self._checkpoint, _newest_first(Path(self._last.directory)))


def restore_or_initialize(
    checkpoints: Checkpoints, model_weights: Sequence[tf.Variable], init_from: Path | None = None
) -> str:
    """Restores the state that a run starts from, the first of these that exists.

    1. The newest complete checkpoint of its own run directory: the run resumes there.
    2. The best model of the run directory `init_from` (--init_from): a new head, step 0.
    3. The pretrained weights of the backbone, which building the model has loaded already.
    4. Random weights, where the backbone has none.

    Args:
        checkpoints: Those of the run.
        model_weights: The weights of its embedding model.
        init_from: Another run directory, or None.

    Returns:
        A description of the source, for the log.

    Raises:
        UserError: `init_from` has no complete checkpoint.
    """
    newest = checkpoints.restore_newest()
    if newest:
        return newest
    if init_from is not None:
        return restore(init_from, {"model": model_weights}, "best")
    logging.info("no checkpoint to start from: using the initial weights of the backbone")
    return "the initial weights of the backbone"


def restore(workdir: Path, state: State, checkpoint: str) -> str:
    """Restores a subset of a run's state, such as the embedding model alone.

    Args:
        workdir: The run directory.
        state: The variables to restore, by owner.
        checkpoint: `best` (the newest if the run was never evaluated) or `last`.

    Returns:
        The path of the checkpoint.

    Raises:
        UserError: the run has no complete checkpoint.
    """
    folder = workdir / "checkpoints"
    paths = _newest_first(folder / "last")
    if checkpoint == "best":
        paths = _newest_first(folder / "best") + paths
    path = _restore_first(_checkpoint(state), paths)
    if path is None:
        raise UserError(
            f"{folder} has no complete checkpoint; train the run first with "
            f"`universal-embedding train --workdir={workdir}`"
        )
    return path


def load_embedding_model(workdir: Path, checkpoint: str = "best") -> EmbeddingModel:
    """Loads the embedding model of a run, with its averaged weights if the run has an EMA.

    Args:
        workdir: The run directory.
        checkpoint: `best` by `config.best_metric`, `last`, or `initial`: before the first step.

    Raises:
        UserError: there is no run, or it has no checkpoint yet.
    """
    if checkpoint not in CHECKPOINTS:
        raise UserError(
            f"there is no checkpoint {checkpoint!r}; use one of {', '.join(CHECKPOINTS)}"
        )
    config = ConfigDict(read_config(workdir)["config"])
    if checkpoint == "initial":
        return build_model(config)
    model = rebuild_model(workdir, config)
    weights = [weight.value for weight in model.weights]
    restore(workdir, {"model": weights}, checkpoint)
    if config.optimizer.ema_decay:
        averaged = [weight for weight in weights if weight.dtype.is_floating]
        restore(workdir, {"ema": averaged}, checkpoint)
    return model


def _checkpoint(state: State) -> tf.train.Checkpoint:
    return tf.train.Checkpoint(**{owner: list(variables) for owner, variables in state.items()})


def _clean(folder: Path) -> None:
    """Removes what a killed save left, and rebuilds a damaged list of the checkpoints."""
    for unfinished in folder.glob("step-*_temp"):
        shutil.rmtree(unfinished, ignore_errors=True)
    paths = _newest_first(folder)
    try:
        has_list = tf.train.get_checkpoint_state(str(folder)) is not None
    except Exception:  # an empty file, or bytes that are no text
        has_list = False
    if paths and not has_list:
        logging.warning(
            "%s is damaged: rebuilt from the checkpoints beside it", folder / "checkpoint"
        )
        oldest_first = paths[::-1]
        times = [Path(f"{path}.index").stat().st_mtime for path in oldest_first]
        tf.compat.v1.train.update_checkpoint_state(
            str(folder), paths[0], oldest_first, all_model_checkpoint_timestamps=times
        )
    elif not paths:
        (folder / "checkpoint").unlink(missing_ok=True)


def _newest_first(folder: Path) -> list[str]:
    steps = {}
    for path in folder.glob("step-*.index"):
        step = path.stem.removeprefix("step-")
        if step.isdigit():
            steps[int(step)] = str(path.with_suffix(""))
    return [steps[step] for step in sorted(steps, reverse=True)]


def _restore_first(checkpoint: tf.train.Checkpoint, paths: Sequence[str]) -> str | None:
    for path in paths:
        try:
            _read_all_tensors(path)
        except Exception as error:  # of TensorFlow's reader: IndexError for a truncated file
            reason = (str(error) or type(error).__name__).splitlines()[0]
            logging.warning("skipping damaged checkpoint %s: %s", path, reason)
            continue
        checkpoint.restore(path).assert_existing_objects_matched().expect_partial()
        return path
    return None


def _read_all_tensors(path: str) -> None:
    """Reads every tensor, which verifies its checksum, before any variable is changed."""
    reader = tf.train.load_checkpoint(path)
    for name in reader.get_variable_to_shape_map():
        reader.get_tensor(name)
