"""Backward-compatible training: the classes of an older model, frozen, judge the new embeddings.

Shen et al., "Towards Backward-Compatible Representation Learning", CVPR 2020: to the loss of the
new classifier is added the loss of the same embeddings under the old one, whose weights stay. New
embeddings then lie where the old model put the same classes, and find its index.
"""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from universal_embedding.errors import UserError
from universal_embedding.files import as_path
from universal_embedding.models.heads import MarginHead
from universal_embedding.training.initialization import read_class_weights
from universal_embedding.training.losses.base import Loss, LossContext, ModelOutputs
from universal_embedding.training.run_directory import read_config


class CompatibleLoss(Loss):
    """Cross-entropy under the frozen classes of the run `config.losses.compatible.run`.

    Its head's margin, scale and sub-centers are those of that run. Images of a class that it does
    not have add nothing; classes are matched by domain and id.

    Raises:
        UserError: that run has no classes, other dimensions, or no class in common with this one.
    """

    def __init__(self, context: LossContext) -> None:
        name = context.config.losses.compatible.run
        if not name:
            raise UserError(
                "config.losses.compatible needs the run whose embeddings are to stay valid: set "
                "config.losses.compatible.run to its directory"
            )
        run = as_path(name)
        classes, config = read_class_weights(run), read_config(run)["config"]["head"]
        dim = context.model.output_dim
        if not classes or (found := next(iter(classes.values()))[1].shape[-1]) != dim:
            what = f"classes of {found} dimensions" if classes else "no classes"
            raise UserError(
                f"config.losses.compatible.run={run} has {what}, and this run embeds in {dim}; "
                "give a run with a classifier and the same config.model.embedding_dim"
            )
        self.head_domains, self.labels = _match_classes(classes, context.class_ids)
        if (self.labels < 0).all():
            raise UserError(
                f"config.losses.compatible.run={run} has no class of this run's domains "
                f"{', '.join(context.class_ids)}: no embedding could stay valid"
            )
        self.offsets = np.cumsum([0, *map(len, context.class_ids.values())])[:-1].astype(np.int32)
        self.old_head = MarginHead(
            {domain: len(ids) for domain, (ids, _) in classes.items()},
            dim,
            margin_type=config["margin_type"],
            margin=config["margin"],
            scale=config["scale"],
            num_subcenters=config["num_subcenters"],
            joint=config["joint"],
            name="compatible_head",
        )
        self.old_head.trainable = False
        tables = [values.reshape(-1, dim) for _, values in classes.values()]
        tables = [np.concatenate(tables)] if config["joint"] else tables
        for variable, table in zip(self.old_head.class_weights, tables, strict=True):
            variable.assign(table)

    def __call__(self, batch: Mapping[str, tf.Tensor], outputs: ModelOutputs) -> tf.Tensor:
        """`[b]` float32; 0 for an image of a class that the old run does not have."""
        loss = self._loss(outputs.embedding, batch["label"], batch["domain"])
        if "mix" not in batch:
            return loss
        partner = self._loss(outputs.embedding, batch["label2"], batch["domain"])
        return batch["mix"] * loss + (1.0 - batch["mix"]) * partner

    def _loss(self, embedding: tf.Tensor, labels: tf.Tensor, domains: tf.Tensor) -> tf.Tensor:
        ids = tf.gather(self.offsets, domains) + labels
        old_labels = tf.gather(self.labels, ids)
        loss = self.old_head(
            embedding, tf.maximum(old_labels, 0), tf.gather(self.head_domains, domains)
        )
        return tf.where(old_labels >= 0, loss, 0.0)


def _match_classes(
    classes: Mapping[str, tuple[np.ndarray, np.ndarray]], class_ids: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the old run's class of each class of the new run.

    Args:
        classes: Class ids and weights of the old run, by domain.
        class_ids: Class ids of the new run, in the order of its labels, by domain.

    Returns:
        For each new domain its position among the old ones, 0 if it is not there, `[domains]`; for
        each new class, domain after domain, the old label or -1, `[classes]`; both int32.
    """
    positions = {domain: i for i, domain in enumerate(classes)}
    labels = []
    for domain, ids in class_ids.items():
        old_ids = classes[domain][0] if domain in classes else np.empty(0, np.int64)
        found = np.full(len(ids), -1, np.int32)
        _, new, old = np.intersect1d(ids, old_ids, return_indices=True)
        found[new] = old
        labels.append(found)
    domains = [positions.get(domain, 0) for domain in class_ids]
    return np.array(domains, np.int32), np.concatenate(labels)
