"""Training losses.

To add a loss, write a subclass of `Loss`, register it and give it a weight and options, for
example in a recipe:

    LOSSES["center"] = CenterLoss
    config = base_config()
    with config.unlocked():
        config.losses.center = ConfigDict({"weight": 0.5, "momentum": 0.9})

The class is constructed from a `LossContext`, where it finds `config.losses.center.momentum`.
"""

from collections.abc import Mapping

from universal_embedding.errors import UserError
from universal_embedding.training.losses.base import (
    Loss,
    LossContext,
    ModelOutputs,
    update_states,
)
from universal_embedding.training.losses.classification import ClassificationLoss
from universal_embedding.training.losses.compatible import CompatibleLoss
from universal_embedding.training.losses.contrastive import MultiSimilarityLoss, SupConLoss
from universal_embedding.training.losses.distillation import (
    DistanceDistillation,
    DistanceDistributionDistillation,
    RKDDistanceLoss,
)
from universal_embedding.training.losses.embedding_matching import EmbeddingMatching
from universal_embedding.training.losses.udon import UDONLoss

__all__ = [
    "LOSSES",
    "Loss",
    "LossContext",
    "ModelOutputs",
    "loss_names",
    "make_losses",
    "update_states",
]

# Losses are created and summed in this order; another order would round differently.
LOSSES: dict[str, type[Loss]] = {
    "distance": DistanceDistillation,
    "classification": ClassificationLoss,
    "compatible": CompatibleLoss,
    "distance_distribution": DistanceDistributionDistillation,
    "embedding_matching": EmbeddingMatching,
    "multi_similarity": MultiSimilarityLoss,
    "rkd_distance": RKDDistanceLoss,
    "supcon": SupConLoss,
    "udon": UDONLoss,
}


def make_losses(context: LossContext) -> dict[str, tuple[float, Loss]]:
    """Creates the losses to which `config.losses` gives a weight.

    Returns:
        Weight and loss by name, in the order of `LOSSES`.

    Raises:
        UserError: a loss is not in `LOSSES`, none has a weight, or an option is invalid.
    """
    options = context.config.losses
    for name in options:
        if name not in LOSSES:
            raise UserError(f"config.losses has {name!r}; the losses are {', '.join(LOSSES)}")
    weights = {name: options[name].weight for name in LOSSES if name in options}
    if not any(weights.values()):
        raise UserError(
            "config.losses gives no loss a weight; set one, such as "
            "config.losses.classification.weight=1.0"
        )
    return {name: (weight, LOSSES[name](context)) for name, weight in weights.items() if weight}


def loss_names(losses: Mapping[str, tuple[float, Loss]]) -> list[str]:
    """Names to log: a loss's name, or `<name>_<term>` for each of its terms, and its monitors."""
    return [
        f"{name}_{term}" if term else name
        for name, (_, loss) in losses.items()
        for term in (*(loss.terms or ("",)), *loss.monitors)
    ]
