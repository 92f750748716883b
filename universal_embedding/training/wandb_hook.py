"""Metrics of a run in Weights & Biases, an optional service."""

import hashlib
from collections.abc import Mapping
from typing import Any

from absl import logging

from universal_embedding.errors import UserError
from universal_embedding.training.hooks import Hook, TrainerContext


class WandbHook(Hook):
    """Sends every row of metrics to a project of Weights & Biases as well, from the chief.

    A resumed run continues the same run there, which its run directory identifies. If the service
    fails later, a warning says so and training continues without it.

    Args:
        project: The project, or `entity/project`.

    Raises:
        UserError: the package `wandb` is not installed; before training: the run cannot be opened.
    """

    def __init__(self, project: str) -> None:
        try:
            import wandb
        except ImportError as error:
            raise UserError(
                f"--wandb={project} needs the package wandb; install it with "
                "pip install 'universal-embedding[wandb]'"
            ) from error
        self._wandb: Any = wandb
        self._run: Any = None
        self._entity, _, self._project = project.rpartition("/")

    def before_training(self, context: TrainerContext) -> None:
        """Opens the run there."""
        if not context.is_chief:
            return
        workdir = context.experiment.workdir
        try:
            self._run = self._wandb.init(
                project=self._project,
                entity=self._entity or None,
                id=hashlib.sha256(str(workdir.resolve()).encode()).hexdigest()[:16],
                name=workdir.name,
                resume="allow",
                config=context.experiment.config.to_dict(),
            )
        except Exception as error:  # no login, no network, no such project
            raise UserError(
                f"--wandb={self._project} cannot be opened ({error}); log in with `wandb login`, "
                "set WANDB_MODE=offline, or leave --wandb out"
            ) from error
        context.writer.add_listener(self._send)

    def close(self) -> None:
        """Ends the upload."""
        self._call("finish")

    def _send(self, step: int, row: Mapping[str, float]) -> None:
        self._call("log", dict(row), step=step)

    def _call(self, method: str, *args: object, **kwargs: object) -> None:
        if self._run is None:
            return
        try:
            getattr(self._run, method)(*args, **kwargs)
        except Exception as error:
            self._run = None
            logging.warning("nothing more is sent to Weights & Biases: %s", error)
