"""Heads whose classes are sharded over the replicas (`config.head.sharded`): checks and gradients.

See `models.heads.sharding` for the loss, and `ShardedTable` there for checkpoints.
"""

from collections.abc import Collection, Mapping, Sequence

import tensorflow as tf
from ml_collections import ConfigDict

from universal_embedding.errors import UserError

# Their update of a row depends on other rows: factored moments, norms and products of the matrix.
OPTIMIZERS_OF_WHOLE_MATRICES = ("adafactor", "lamb", "muon")


def check_sharded_head(config: ConfigDict) -> None:
    """Refuses what would not give the same numbers as a head that is not sharded.

    Raises:
        UserError: `config.head.sharded` is set beside a field that needs all classes in one place.
    """
    if not config.head.sharded:
        return
    optimizer, steps = config.optimizer.name, config.optimizer.gradient_accumulation_steps
    conflicts = {
        f"config.head.num_sampled_classes={config.head.num_sampled_classes} (each replica would "
        "sample so many; set it to 0)": config.head.num_sampled_classes,
        "config.losses.udon.weight (which compares the probabilities of all classes)": (
            config.losses.udon.weight
        ),
        f"config.optimizer.name={optimizer!r} (whose update of a class depends on the others; use "
        "adamw)": optimizer.lower() in OPTIMIZERS_OF_WHOLE_MATRICES,
        f"config.optimizer.gradient_accumulation_steps={steps} (replicas exchange embeddings in "
        "each step; set it to 1)": steps > 1,
    }
    for conflict, is_set in conflicts.items():
        if is_set:
            raise UserError(
                f"config.head.sharded=True does not go with {conflict}, or set "
                "config.head.sharded=False"
            )


def sum_over_replicas(
    gradients: Mapping[str, Sequence[tf.Tensor]], sharded_groups: Collection[str]
) -> tuple[dict[str, list[tf.Tensor]], dict[str, tf.Tensor]]:
    """Sums gradients over the replicas, except those of which each replica has its own part.

    Args:
        gradients: Gradients by group; call it in a replica context.
        sharded_groups: The groups whose weights are sharded.

    Returns:
        The gradients by group, and of each sharded group the sum of the squares of all parts,
        float32 scalar.
    """
    context, reduce_op = tf.distribute.get_replica_context(), tf.distribute.ReduceOp.SUM
    whole = {name: list(g) for name, g in gradients.items() if name not in sharded_groups}
    summed: dict[str, list[tf.Tensor]] = context.all_reduce(reduce_op, whole) if whole else {}
    parts = {name: list(g) for name, g in gradients.items() if name in sharded_groups}
    if not parts:
        return summed, {}
    squares = {name: tf.square(tf.linalg.global_norm(part)) for name, part in parts.items()}
    sums: dict[str, tf.Tensor] = context.all_reduce(reduce_op, squares)
    return summed | parts, sums
