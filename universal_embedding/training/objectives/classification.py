"""Cross-entropy over classes, with the margin head of `config.head`."""

from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from universal_embedding.models.heads import MarginHead, dynamic_margins
from universal_embedding.training.objectives.base import Objective, Outputs, Setting


class Loss(Objective):
    """The loss of `models.heads.MarginHead` on the embedding."""

    def __init__(self, setting: Setting) -> None:
        self.domains = tuple(setting.class_sizes)
        self.head = make_head(setting, setting.embedder.output_dimension)
        self.seed = setting.config.seed

    def parts(self) -> dict[str, list[keras.Variable]]:
        """`head`, or `head/<domain>` for each where classifiers are separate."""
        if self.head.joint:
            return {"head": self.head.class_weights}
        weights = zip(self.domains, self.head.class_weights, strict=True)
        return {f"head/{domain}": [variable] for domain, variable in weights}

    def touched(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Separate classifiers: those of the domains in the batch."""
        if self.head.joint:
            return {}
        touched = tf.unstack(self.head.touched(batch["domain"]), len(self.domains))
        return {f"head/{domain}": t for domain, t in zip(self.domains, touched, strict=True)}

    def losses(self, batch: Mapping[str, tf.Tensor], outputs: Outputs) -> tf.Tensor:
        """`[b]` float32."""
        seed = tf.stack([tf.constant(self.seed, tf.int64), outputs.step])
        return self.head(
            outputs.embedding,
            batch["label"],
            batch["domain"],
            margin_factor=outputs.margin_factor,
            seed=tf.cast(seed, tf.int32),
        )


def make_head(setting: Setting, dimension: int) -> MarginHead:
    """The head of `config.head` over embeddings of `dimension`."""
    config = setting.config.head
    return MarginHead(
        {domain: len(sizes) for domain, sizes in setting.class_sizes.items()},
        dimension,
        margin_kind=config.margin_kind,
        margin=_margins(setting),
        scale=config.scale,
        centers=config.centers,
        joint=config.joint,
        method=config.method,
        samples=config.samples or None,
    )


def _margins(setting: Setting) -> float | dict[str, np.ndarray]:
    config = setting.config.head
    if not config.dynamic_margin:
        return config.margin
    return {
        domain: dynamic_margins(sizes, config.dynamic_margin, config.dynamic_power, config.margin)
        for domain, sizes in setting.class_sizes.items()
    }
