"""What a run keeps on disk: the newest states, the best one, and how each is found again."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import tensorflow as tf
from absl import logging
from ml_collections import ConfigDict

from universal_embedding.errors import UserError
from universal_embedding.models.embedder import Embedder
from universal_embedding.training.model import make_embedder, rebuild_embedder
from universal_embedding.training.work_directory import read_run

CHECKPOINTS = ("best", "last", "initial")
State = Mapping[str, Sequence[tf.Variable]]


class Checkpoints:
    """The checkpoints of a work directory.

    They are written by `tf.train.Checkpoint` in the background, under another name until they are
    whole. `checkpoints/last` holds the newest ones, `checkpoints/best` the best by validation.

    Args:
        workdir: The run's folder.
        state: All variables of the run, by owner, in a fixed order.
        keep: How many of the newest to keep.
        chief: Whether this process writes into the work directory; the other workers of a
            multi-worker run must save too, and throw theirs away.
        background: Whether the steps after a save run while it is written.
    """

    def __init__(
        self,
        workdir: Path,
        state: State,
        keep: int = 3,
        chief: bool = True,
        background: bool = True,
    ) -> None:
        self._checkpoint = tf.train.Checkpoint(**{name: list(of) for name, of in state.items()})
        if not chief:
            self._elsewhere = tempfile.TemporaryDirectory()
            workdir = Path(self._elsewhere.name)
        self._options = tf.train.CheckpointOptions(experimental_enable_async_checkpoint=background)
        self._last = self._manager(workdir / "checkpoints" / "last", keep)
        self._best = self._manager(workdir / "checkpoints" / "best", 1)

    def _manager(self, folder: Path, keep: int) -> tf.train.CheckpointManager:
        return tf.train.CheckpointManager(
            self._checkpoint, str(folder), keep, checkpoint_name="step"
        )

    def save(self, step: int) -> None:
        """Saves the state after `step` steps, in the background."""
        self._last.save(step, options=self._options)

    def save_best(self, step: int) -> None:
        """Keeps the state after `step` steps as the best so far, instead of the one before."""
        self._best.save(step, options=self._options)

    def wait(self) -> None:
        """Returns when everything saved so far is on disk."""
        self._checkpoint.sync()

    def restore_newest(self) -> str | None:
        """Restores the newest state that is whole; its path, or None if there is none.

        One that is damaged is passed over with a warning.
        """
        return _restore_first(self._checkpoint, _newest_first(Path(self._last.directory)))


def restore(workdir: Path, state: State, which: str) -> str:
    """Restores a part of a run's state, such as the embedder alone.

    Args:
        workdir: The run's folder.
        state: The variables to restore, by owner.
        which: `best` (the newest if the run was never validated) or `last`.

    Returns:
        The path of the checkpoint.

    Raises:
        UserError: the run has no checkpoint that is whole.
    """
    checkpoint = tf.train.Checkpoint(**{name: list(of) for name, of in state.items()})
    folder = workdir / "checkpoints"
    paths = _newest_first(folder / "last")
    if which == "best":
        paths = _newest_first(folder / "best") + paths
    path = _restore_first(checkpoint, paths)
    if path is None:
        raise UserError(
            f"{folder} has no whole checkpoint; train the run first with tools/train.py "
            f"--workdir={workdir}"
        )
    return path


def load_embedder(workdir: Path, which: str = "best") -> Embedder:
    """The embedder of a run, with its averaged weights where the run keeps an average.

    Args:
        workdir: The run's folder.
        which: `best` by validation, `last`, or `initial`: before the first step.

    Raises:
        UserError: there is no run, or it has no checkpoint yet.
    """
    if which not in CHECKPOINTS:
        raise UserError(f"there is no checkpoint {which!r}; give one of {', '.join(CHECKPOINTS)}")
    config = ConfigDict(read_run(workdir)["config"])
    if which == "initial":
        return make_embedder(config)
    embedder = rebuild_embedder(workdir, config)
    weights = [weight.value for weight in embedder.weights]
    restore(workdir, {"embedder": weights}, which)
    if config.optimizer.average:
        averaged = [weight for weight in weights if weight.dtype.is_floating]
        restore(workdir, {"average": averaged}, which)
    return embedder


def _newest_first(folder: Path) -> list[str]:
    steps = {}
    for index in folder.glob("step-*.index"):
        number = index.stem.removeprefix("step-")
        if number.isdigit():
            steps[int(number)] = str(index.with_suffix(""))
    return [steps[step] for step in sorted(steps, reverse=True)]


def _restore_first(checkpoint: tf.train.Checkpoint, paths: Sequence[str]) -> str | None:
    for path in paths:
        try:
            _read_whole(path)
        except (tf.errors.OpError, ValueError, OSError) as error:
            reason = str(error).splitlines()[0]
            logging.warning("checkpoint %s is damaged and passed over: %s", path, reason)
            continue
        checkpoint.restore(path).assert_existing_objects_matched().expect_partial()
        return path
    return None


def _read_whole(path: str) -> None:
    """Reads every tensor, which verifies its checksum, before any variable is changed."""
    reader = tf.train.load_checkpoint(path)
    for name in reader.get_variable_to_shape_map():
        reader.get_tensor(name)
