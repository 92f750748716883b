"""One training step on one replica: features, losses, gradients, update."""

from collections.abc import Mapping

import tensorflow as tf

from universal_embedding.models.backbones import at_size
from universal_embedding.models.embedder import Embedder
from universal_embedding.training.average import WeightAverage
from universal_embedding.training.loss_scale import LossScale
from universal_embedding.training.masked_update import apply_if
from universal_embedding.training.objectives import Objective, Outputs
from universal_embedding.training.optimizers import clip_together
from universal_embedding.training.parts import Part
from universal_embedding.training.stages import Stage, margin_factor_at

Batch = Mapping[str, tf.Tensor]


class Step:
    """`step(batch)` trains the model on one replica's slice of a global batch.

    Losses are sums over the replica's examples divided by the size of the *global* batch, and
    gradients are summed over the replicas, so neither depends on how many there are.

    Args:
        embedder: The model.
        objectives: Weight and objective by name.
        parts: The weights by part, with their optimizers.
        stage: What trains, and on what input.
        counter: The run's step, int64; the step adds one to it.
        domains: Number of domains, for the reported losses.
        global_batch: Examples over all replicas.
        seed: Of the dropout.
        dropout: Rate on the features.
        batch_statistics: Whether batch norm uses (and gathers) statistics of the batch.
        clip_norm: Of all gradients together; 0: none.
        loss_scale: For float16.
        average: Of the weights, moved after each step.
        compiled: Whether XLA compiles it.
    """

    def __init__(
        self,
        embedder: Embedder,
        objectives: Mapping[str, tuple[float, Objective]],
        parts: Mapping[str, Part],
        stage: Stage,
        counter: tf.Variable,
        *,
        domains: int,
        global_batch: int,
        seed: int,
        dropout: float = 0.0,
        batch_statistics: bool = False,
        clip_norm: float = 0.0,
        loss_scale: LossScale | None = None,
        average: WeightAverage | None = None,
        compiled: bool = False,
    ) -> None:
        self.embedder, self.objectives, self.stage = embedder, dict(objectives), stage
        self.parts = {n: part for n, part in parts.items() if stage.trains(part.group, part.below)}
        self.counter, self.domains, self.global_batch = counter, domains, global_batch
        self.seed, self.dropout, self.batch_statistics = seed, dropout, batch_statistics
        self.clip_norm, self.loss_scale, self.average = clip_norm, loss_scale, average
        self.backbone = at_size(embedder.backbone, stage.image_size)
        alone = tf.distribute.get_strategy().num_replicas_in_sync == 1
        # Between replicas gradients are summed outside XLA; on one, the whole step is one program.
        self._gradients = (
            tf.function(self._gradients_of, jit_compile=True) if compiled else self._gradients_of
        )
        self._update = (
            tf.function(self._update_by, jit_compile=True)
            if compiled and alone
            else self._update_by
        )

    def __call__(self, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        """Trains on a batch.

        Returns:
            `[losses + 1, domains]` float32: the sums of the `objectives.loss_names` by domain, and
            the number of examples, of this replica; and the norm of all gradients, float32.
        """
        gradients, sums = self._gradients(batch)
        norm = self._update(gradients, self._touched(batch))
        return sums, norm

    def _gradients_of(self, batch: Batch) -> tuple[dict[str, list[tf.Tensor]], tf.Tensor]:
        trains_backbone = "backbone" in self.stage.rates
        frozen = None if trains_backbone else tf.stop_gradient(self._features(batch))
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            weights = {name: [v.value for v in part.variables] for name, part in self.parts.items()}
            tape.watch(tf.nest.flatten(weights))
            features = self._features(batch) if trains_backbone else frozen
            features = self._drop(features)
            outputs = Outputs(
                features,
                self.embedder.embed_features(features),
                self.counter.value(),
                margin_factor_at(self.stage, self.counter.value()),
            )
            losses = [objective.losses(batch, outputs) for _, objective in self.objectives.values()]
            scales = [weight for weight, _ in self.objectives.values()]
            total = tf.add_n([w * tf.reduce_sum(x) for w, x in zip(scales, losses, strict=True)])
            total /= self.global_batch
            if self.loss_scale:
                total = self.loss_scale.scaled(total)
        gradients = tape.gradient(total, weights, unconnected_gradients="zero")
        size = tf.size(batch["domain"])
        rows = [tf.reshape(x, [-1, size]) for x in losses]  # an objective may give several terms
        rows = tf.concat([*rows, tf.ones([1, size])], axis=0)
        sums = tf.transpose(
            tf.math.unsorted_segment_sum(tf.transpose(rows), batch["domain"], self.domains)
        )
        return gradients, sums

    def _features(self, batch: Batch) -> tf.Tensor:
        if self.stage.input == "features":
            return batch["features"]
        training = self.batch_statistics and "backbone" in self.stage.rates
        return self.backbone(batch["image"], training=training)

    def _drop(self, features: tf.Tensor) -> tf.Tensor:
        """Dropout whose mask is a function of seed, step and place in the global batch."""
        if not self.dropout:
            return features
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        size, width = features.shape
        seed = tf.stack([tf.constant(self.seed, tf.int64), self.counter.value()])
        noise = tf.random.stateless_uniform([self.global_batch, width], seed, alg="philox")
        noise = tf.slice(noise, [replica * size, 0], [size, width])
        keep = tf.cast(noise >= self.dropout, features.dtype)
        return features * keep / (1.0 - self.dropout)

    def _touched(self, batch: Batch) -> dict[str, tf.Tensor]:
        touched = {}
        for _, objective in self.objectives.values():
            touched.update(objective.touched(batch))
        # On any replica: those of a mixed batch may hold different domains.
        touched = {
            name: tf.cast(t, tf.float32) for name, t in touched.items() if name in self.parts
        }
        if not touched:
            return {}
        context = tf.distribute.get_replica_context()
        return tf.nest.map_structure(
            lambda count: count > 0, context.all_reduce(tf.distribute.ReduceOp.SUM, touched)
        )

    def _update_by(
        self, gradients: dict[str, list[tf.Tensor]], touched: dict[str, tf.Tensor]
    ) -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        if self.loss_scale:
            gradients = self.loss_scale.unscaled(gradients)
        gradients, norm = clip_together(gradients, self.clip_norm)
        finite = [self.loss_scale.update(norm)] if self.loss_scale else []
        for name, part in self.parts.items():
            conditions = finite + ([touched[name]] if name in touched else [])
            if conditions:
                changes = tf.reduce_all(conditions)
                apply_if(changes, part.optimizer, gradients[name], part.variables)
            else:
                part.optimizer.apply(gradients[name], part.variables)
        if self.average:
            self.average.update(self.counter, forgets=self.stage.start == 0)
        self.counter.assign_add(1)
        return norm
