"""Metrics of a run in Weights & Biases, an optional service."""

import hashlib
from collections.abc import Mapping
from typing import Any

from universal_embedding.errors import UserError
from universal_embedding.training.hooks import Hook, TrainerContext


class WandbHook(Hook):
    """Sends every row of metrics to a project of Weights & Biases as well, from the chief.

    A resumed run continues the same run there, which its run directory identifies.

    Args:
        project: The project, or `entity/project`.

    Raises:
        UserError: the package `wandb` is not installed.
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
        self._run = self._wandb.init(
            project=self._project,
            entity=self._entity or None,
            id=hashlib.sha256(str(workdir.resolve()).encode()).hexdigest()[:16],
            name=workdir.name,
            resume="allow",
            config=context.experiment.config.to_dict(),
        )
        context.writer.add_listener(self._send)

    def close(self) -> None:
        """Ends the upload."""
        if self._run is not None:
            self._run.finish()

    def _send(self, step: int, row: Mapping[str, float]) -> None:
        self._run.log(dict(row), step=step)
