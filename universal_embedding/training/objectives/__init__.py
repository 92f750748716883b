"""What training makes small: one file for each objective, all with the interface of `base`."""

from universal_embedding.training.objectives.base import (
    Objective,
    Outputs,
    loss_names,
    make_objectives,
)

__all__ = ["Objective", "Outputs", "loss_names", "make_objectives"]
