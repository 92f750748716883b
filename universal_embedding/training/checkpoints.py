"""Checkpoints of a run: saving and restoring."""

import contextlib
import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import tensorflow as tf
from absl import logging
from ml_collections import ConfigDict

from universal_embedding.errors import UserError
from universal_embedding.files import as_path
from universal_embedding.models.embedding_model import EmbeddingModel
from universal_embedding.models.heads.sharding import ShardedTable
from universal_embedding.training.model import build_model, rebuild_model
from universal_embedding.training.run_directory import read_config

CHECKPOINTS = ("best", "last", "initial")
BEST_STATE = ("step", "evaluation", "model", "ema", "heads")  # owners that the best one keeps
State = Mapping[str, Sequence[tf.Variable | ShardedTable]]


class Checkpoints:
    """The checkpoints in a run directory, which all hosts of the run read and the chief writes.

    `checkpoints/last` holds the newest ones: everything that a run needs to resume.
    `checkpoints/best` holds the one with the best metric: the model, its average and the heads,
    for evaluation, export and other runs, but not the optimizer, which is most of a checkpoint.
    `tf.train.Checkpoint` writes them in the background, under another name until they are complete.
    Of a sharded table it sees a copy on this host, so files do not depend on the number of
    replicas.

    Args:
        workdir: The run directory.
        state: All variables of the run, by owner, in a fixed order.
        max_to_keep: How many of the newest checkpoints to keep.
        is_chief: Whether this process writes into the run directory. Make the chief's first: it
            removes what a killed run left.
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
        variables, self._host_copies = _with_host_copies(state)
        best = {owner: values for owner, values in variables.items() if owner in BEST_STATE}
        self._complete, self._best_only = _checkpoint(variables), _checkpoint(best)
        self._options = tf.train.CheckpointOptions(experimental_enable_async_checkpoint=background)
        folder = workdir / "checkpoints"
        self._last_folder = folder / "last"
        self._is_writer = is_chief or _needs_all_hosts(variables)
        if not self._is_writer:
            return
        if not is_chief:
            self._scratch = tempfile.TemporaryDirectory()
            folder, max_to_keep = Path(self._scratch.name), 1
        self._last = _make_manager(self._complete, folder / "last", max_to_keep)
        self._best = _make_manager(self._best_only, folder / "best", 1)

    def save(self, step: int) -> None:
        """Saves the state after `step` steps, in the background; each host must call it."""
        self._gather_tables()
        if self._is_writer:
            self._last.save(step, options=self._options)

    def save_best(self, step: int) -> None:
        """Replaces the best checkpoint by the model after `step` steps; each host must call it."""
        self._gather_tables()
        if self._is_writer:
            self._best.save(step, options=self._options)

    def wait(self) -> None:
        """Returns when everything saved so far is on disk."""
        self._complete.sync()
        self._best_only.sync()

    def restore_newest(self) -> str | None:
        """Restores the newest complete checkpoint; its path, or None if there is none.

        A damaged one is skipped with a warning.
        """
        path = _restore_first(self._complete, _newest_first(self._last_folder))
        if path:
            for table, copy in self._host_copies:
                table.assign(copy.numpy())
        return path

    def _gather_tables(self) -> None:
        for table, copy in self._host_copies:
            copy.assign(table.numpy())


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
        from universal_embedding.training.initialization import initialize_model

        model = build_model(config)
        if config.init_from:
            initialize_model(model, as_path(config.init_from))
        elif model.standardization is not None:  # fitted before the first step, and constant
            trained = load_embedding_model(workdir, "last").standardization
            model.standardization.set_weights(trained.get_weights() if trained else [])
        return model
    model = rebuild_model(workdir, config)
    weights = [weight.value for weight in model.weights]
    restore(workdir, {"model": weights}, checkpoint)
    if config.optimizer.ema_decay:
        averaged = [weight for weight in weights if weight.dtype.is_floating]
        restore(workdir, {"ema": averaged}, checkpoint)
    return model


def newest_step(workdir: Path) -> int:
    """The step of the newest checkpoint from which a run can resume; -1 if there is none."""
    paths = _newest_first(workdir / "checkpoints" / "last")
    return int(Path(paths[0]).name.removeprefix("step-")) if paths else -1


def hash_state(state: State) -> str:
    """sha256 of the values of a run's variables."""
    digest = hashlib.sha256()
    for variables in state.values():
        for variable in variables:
            digest.update(variable.numpy().tobytes())
    return digest.hexdigest()


def _with_host_copies(
    state: State,
) -> tuple[dict[str, list[tf.Variable]], list[tuple[ShardedTable, tf.Variable]]]:
    """Replaces each sharded table by a variable of its whole size; the pairs of both."""
    copies: list[tuple[ShardedTable, tf.Variable]] = []

    def host_copy(value: tf.Variable | ShardedTable) -> tf.Variable:
        if not isinstance(value, ShardedTable):
            return value
        with tf.device("CPU:0"):
            copies.append((value, tf.Variable(tf.zeros(value.shape, value.dtype))))
        return copies[-1][1]

    return {owner: [*map(host_copy, values)] for owner, values in state.items()}, copies


def _needs_all_hosts(state: Mapping[str, Sequence[tf.Variable]]) -> bool:
    """Whether hosts have values of their own, which TensorFlow combines when all of them save."""
    variables = [variable for values in state.values() for variable in values]
    return any(v.synchronization is tf.VariableSynchronization.ON_READ for v in variables)


def _make_manager(
    checkpoint: tf.train.Checkpoint, folder: Path, max_to_keep: int
) -> tf.train.CheckpointManager:
    _clean(folder)
    return tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep, checkpoint_name="step")


def _checkpoint(state: State) -> tf.train.Checkpoint:
    return tf.train.Checkpoint(**{owner: list(variables) for owner, variables in state.items()})


def _clean(folder: Path) -> None:
    """Removes what a killed save left, and rebuilds a damaged list of the checkpoints."""
    for unfinished in folder.glob("step-*_temp"):
        with contextlib.suppress(OSError):
            as_path(unfinished).rmtree()
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
        times = [tf.io.gfile.stat(f"{path}.index").mtime_nsec / 1e9 for path in oldest_first]
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
    reader = tf.compat.v1.train.NewCheckpointReader(path)
    for name in reader.get_variable_to_shape_map():
        reader.get_tensor(name)
