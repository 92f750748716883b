"""One training step on each replica, and the compiled loop over many steps."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from universal_embedding.models.backbones import resize_backbone
from universal_embedding.private_apis import is_deterministic
from universal_embedding.training.fingerprint import fingerprint_slice
from universal_embedding.training.losses import ModelOutputs, update_states
from universal_embedding.training.param_groups import clip_by_global_norm, sum_equal_rows
from universal_embedding.training.schedule import Stage, margin_at
from universal_embedding.training.sharded_head import sum_over_replicas
from universal_embedding.training.stochastic_depth import check_drop_paths, drop_paths

if TYPE_CHECKING:
    from universal_embedding.training.experiment import Experiment

Batch = Mapping[str, tf.Tensor]
Gradients = dict[str, list[tf.Tensor]]

MAX_LOSS_SCALE = 2.0**24


class TrainStep:
    """Trains on one replica's slice of a global batch: forward pass, losses, gradients, update.

    Losses are sums over the replica's examples divided by the size of the *global* batch, and
    gradients are summed over the replicas, so neither depends on the number of replicas.

    Args:
        experiment: Model, losses and parameter groups to train, and the step counter, EMA and loss
            scale that each step advances.
        stage: Selects the trainable weights, the input and the schedules.
    """

    def __init__(self, experiment: "Experiment", stage: Stage) -> None:
        config = experiment.config
        self.stage = stage
        self.model, self.losses = experiment.model, dict(experiment.losses)
        self.param_groups = {
            name: group
            for name, group in experiment.param_groups.items()
            if group.is_trainable(stage)
        }
        self.sharded_groups = {name for name, g in self.param_groups.items() if g.shard is not None}
        self.counter = experiment.step
        self.ema, self.loss_scale = experiment.ema, experiment.loss_scale
        self.num_domains = len(experiment.records)
        self.global_batch_size = stage.batch_size
        self.seed, self.dropout = config.seed, stage.dropout
        self.num_replicas = experiment.strategy.num_replicas_in_sync
        self.clip_norm = config.optimizer.clip_norm
        self.num_slices = config.optimizer.gradient_accumulation_steps
        self.trains_backbone = "backbone" in stage.learning_rates
        self.trains_batch_norm = self.trains_backbone and not config.model.freeze_batch_norm
        with experiment.strategy.scope():
            self.backbone = resize_backbone(self.model.backbone, stage.image_size)
        check_drop_paths(self.model.backbone, stage)
        self._features_fn: Callable = self._features
        self._gradients_fn: Callable = self._accumulate_gradients
        self._update_fn: Callable = self._update
        is_tpu = isinstance(experiment.strategy, tf.distribute.TPUStrategy)
        if config.jit_compile and not is_tpu:  # a TPU compiles the step as a whole
            self._update_fn = tf.function(self._update, jit_compile=True)
            # Replicas exchange values outside of XLA: gradients between the two functions, and
            # embeddings where losses compare them, which then stay outside as well.
            uses_whole_batch = any(loss.uses_whole_batch for _, loss in self.losses.values())
            if self.num_replicas == 1 or not uses_whole_batch:
                self._gradients_fn = tf.function(self._accumulate_gradients, jit_compile=True)
            else:
                self._features_fn = tf.function(self._features, jit_compile=True)

    def __call__(self, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        """Trains on a batch.

        Args:
            batch: `image [b, S, S, 3]` uint8 or `features [b, F]` float32, `label [b]` and
                `domain [b]` int32, and what the losses need besides.

        Returns:
            `[losses + 1, domains]` float32: this replica's sums of `losses.loss_names` by domain
            and, in the last row, its number of examples; and the global norm of the gradients,
            float32 scalar.
        """
        gradients, sums = self._gradients_fn(batch)
        gradients, shard_squares = sum_over_replicas(gradients, self.sharded_groups)
        norm = self._update_fn(gradients, self._updated_groups(batch), shard_squares)
        update_states([loss for _, loss in self.losses.values()], sums)
        return sums, norm

    def _accumulate_gradients(self, batch: Batch) -> tuple[Gradients, tf.Tensor]:
        """Sums over slices of the batch, one after another, so that they share their memory."""
        if self.num_slices == 1:
            return self._compute_gradients(batch)
        size = batch["domain"].shape[0] // self.num_slices
        slices = {
            name: tf.reshape(values, [self.num_slices, size, *values.shape[1:]])
            for name, values in batch.items()
        }

        def add_slice(i: tf.Tensor, gradients: Gradients, sums: tf.Tensor) -> tuple:
            part = {name: tf.gather(values, i) for name, values in slices.items()}
            terms = self._compute_gradients(part, i * size)
            return i + 1, *tf.nest.map_structure(tf.add, (gradients, sums), terms)

        zeros = {
            name: [tf.zeros(v.shape, v.dtype) for v in group.variables]
            for name, group in self.param_groups.items()
        }
        num_rows = 1 + sum(loss.num_rows for _, loss in self.losses.values())
        _, gradients, sums = tf.while_loop(
            lambda i, *_: i < self.num_slices,
            add_slice,
            (tf.constant(0), zeros, tf.zeros([num_rows, self.num_domains])),
            parallel_iterations=1,
        )
        return gradients, sums

    def _compute_gradients(
        self, batch: Batch, first: int | tf.Tensor = 0
    ) -> tuple[Gradients, tf.Tensor]:
        """Gradients of the examples in `batch`, which start at `first` of this replica's."""
        if "image" in batch:
            batch = {**batch, "image": tf.cast(batch["image"], tf.float32)}
        frozen = None if self.trains_backbone else tf.stop_gradient(self._features_fn(batch, first))
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            weights = {
                name: [variable.value for variable in group.variables]
                for name, group in self.param_groups.items()
            }
            tape.watch(tf.nest.flatten(weights))
            features = self._features_fn(batch, first) if self.trains_backbone else frozen
            features = self._drop(features, first)
            outputs = ModelOutputs(
                features,
                self.model.embed_features(features),
                self.counter.value(),
                *margin_at(self.stage, self.counter.value()),
                self.stage.label_smoothing,
            )
            losses = [loss(batch, outputs) for _, loss in self.losses.values()]
            total = tf.add_n(
                [
                    weight * tf.reduce_sum(loss.trained(values))
                    for (weight, loss), values in zip(self.losses.values(), losses, strict=True)
                ]
            )
            total /= self.global_batch_size
            if self.loss_scale:
                total = self.loss_scale.scale_loss(total)
        gradients = tape.gradient(total, weights, unconnected_gradients="zero")
        return gradients, self._sum_by_domain(losses, batch["domain"])

    def _features(self, batch: Batch, first: int | tf.Tensor) -> tf.Tensor:
        if self.stage.input == "features":
            return self.model.standardize(batch["features"])

        def noise(seed: tf.Tensor) -> tf.Tensor:
            return self._noise(1, seed, first, batch["image"].shape[0])[:, 0]

        with drop_paths(self.stage, self.seed, self.counter.value(), noise):
            features = self.backbone(batch["image"], training=self.trains_batch_norm)
        return self.model.standardize(features)

    def _drop(self, features: tf.Tensor, first: int | tf.Tensor) -> tf.Tensor:
        """Dropout whose mask is a function of the seed, the step and the place in the batch."""
        if not self.dropout:
            return features
        size, width = features.shape
        seed = tf.stack([tf.constant(self.seed, tf.int64), self.counter.value()])
        noise = self._noise(width, seed, first, size)
        keep = tf.cast(noise >= self.dropout, features.dtype)
        return features * keep / (1.0 - self.dropout)

    def _noise(self, width: int, seed: tf.Tensor, first: int | tf.Tensor, size: int) -> tf.Tensor:
        """`[size, width]` in [0, 1): the rows of the replica's examples from `first` on."""
        noise = tf.random.stateless_uniform([self.global_batch_size, width], seed, alg="philox")
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        first += replica * (self.global_batch_size // self.num_replicas)
        return tf.slice(noise, [first, 0], [size, width])

    def _sum_by_domain(self, losses: list[tf.Tensor], domains: tf.Tensor) -> tf.Tensor:
        size = tf.size(domains)
        rows = [tf.reshape(loss, [-1, size]) for loss in losses]  # [b] or [terms, b] each
        values = tf.transpose(tf.concat([*rows, tf.ones([1, size])], axis=0))
        return tf.transpose(tf.math.unsorted_segment_sum(values, domains, self.num_domains))

    def _updated_groups(self, batch: Batch) -> dict[str, tf.Tensor]:
        """For groups that some batches leave alone: whether this one updates them, bool scalars."""
        updated = {}
        for _, loss in self.losses.values():
            updated.update(loss.updated_groups(batch))
        updated = {
            name: tf.cast(is_updated, tf.float32)
            for name, is_updated in updated.items()
            if name in self.param_groups
        }
        if not updated:
            return {}
        # Replicas of a mixed batch may see different domains; all must decide alike.
        context = tf.distribute.get_replica_context()
        return tf.nest.map_structure(
            lambda count: count > 0, context.all_reduce(tf.distribute.ReduceOp.SUM, updated)
        )

    def _update(
        self,
        gradients: Gradients,
        updated: dict[str, tf.Tensor],
        shard_squares: dict[str, tf.Tensor],
    ) -> tf.Tensor:
        """Updates this replica from gradients summed over all; returns their global norm."""
        gradients = {
            name: list(map(sum_equal_rows, gradients[name], group.variables))
            for name, group in self.param_groups.items()
        }
        if self.loss_scale:
            gradients = self.loss_scale.unscale(gradients)
            shard_squares = self.loss_scale.unscale(self.loss_scale.unscale(shard_squares))
        gradients, norm = clip_by_global_norm(gradients, self.clip_norm, shard_squares)
        finite = [self.loss_scale.update(norm)] if self.loss_scale else []
        for name, group in self.param_groups.items():
            conditions = finite + ([updated[name]] if name in updated else [])
            group.apply(gradients[name], tf.reduce_all(conditions) if conditions else None)
        if self.ema:
            self.ema.update(self.counter, bias_correct=self.stage.start == 0)
        self.counter.assign_add(1)
        return norm


class MultiStepLoop:
    """Runs many training steps in one call of one compiled function.

    Args:
        train_step: Trains on one replica's slice of a batch.
        strategy: Distributes the replicas.
    """

    def __init__(
        self,
        train_step: Callable[[Batch], tuple[tf.Tensor, tf.Tensor]],
        strategy: tf.distribute.Strategy,
    ) -> None:
        self._train_step, self._strategy = train_step, strategy
        self._run = tf.function(self._run_steps)

    def __call__(self, iterator: Iterator, steps: int) -> tuple[tf.Tensor, ...]:
        """Trains on the next `steps` batches of a (distributed) data set's iterator.

        Returns:
            `[steps, losses + 1, domains]` float32: sums of `losses.loss_names` by domain and, in
            the last row, the number of examples, over all replicas; `[steps]` float32, the global
            norms of the gradients; `[steps]` int64, see `fingerprint.finish_fingerprint`; and
            `[steps, 2]` float64, the times in seconds since 1970 at which the step's batch was
            ready and its gradients were computed, or on an accelerator handed to it; NaN with
            deterministic ops.
        """
        return self._run(iterator, tf.constant(steps, tf.int32))

    def _run_steps(self, iterator: Iterator, steps: tf.Tensor) -> tuple[tf.Tensor, ...]:
        all_sums = tf.TensorArray(tf.float32, steps)
        all_norms = tf.TensorArray(tf.float32, steps)
        all_hashes = tf.TensorArray(tf.int64, steps)
        all_times = tf.TensorArray(tf.float64, steps, element_shape=[2])
        for i in tf.range(steps):
            batch = next(iterator)
            ready = _timestamp_after(batch)
            sums, norm, hashes = self._strategy.run(self._step, args=(batch,))
            all_times = all_times.write(i, tf.stack([ready, _timestamp_after((sums, norm))]))
            all_sums = all_sums.write(i, self._strategy.reduce("SUM", sums, axis=None))
            all_norms = all_norms.write(i, self._strategy.reduce("MEAN", norm, axis=None))
            all_hashes = all_hashes.write(i, self._strategy.reduce("SUM", hashes, axis=None))
        return all_sums.stack(), all_norms.stack(), all_hashes.stack(), all_times.stack()

    def _step(self, batch: Batch) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        return *self._train_step(batch), fingerprint_slice(batch)


def _timestamp_after(values: Any) -> tf.Tensor:
    """The time at which the host has `values`, float64 scalar; nothing waits for it."""
    if is_deterministic():  # deterministic graphs have no clock
        return tf.constant(float("nan"), tf.float64)
    with tf.device("CPU"), tf.control_dependencies(tf.nest.flatten(values, expand_composites=True)):
        return tf.timestamp()


class LossScale:
    """Dynamic loss scaling for float16 (arXiv 1710.03740).

    The scale doubles after `growth_steps` finite steps in a row, up to `MAX_LOSS_SCALE`: in a stage
    in which nothing runs in float16 it would grow forever. It halves, and the step is skipped, when
    the gradients overflow.

    Args:
        growth_steps: Finite steps before the scale grows.
        initial_scale: The first scale.
    """

    def __init__(self, growth_steps: int = 2000, initial_scale: float = 2.0**15) -> None:
        self.scale = tf.Variable(initial_scale, name="loss_scale", trainable=False)
        self.finite_steps = tf.Variable(0, name="finite_steps", dtype=tf.int32, trainable=False)
        self.growth_steps = growth_steps

    @property
    def variables(self) -> list[tf.Variable]:
        """The state to keep in checkpoints."""
        return [self.scale, self.finite_steps]

    def scale_loss(self, loss: tf.Tensor) -> tf.Tensor:
        """The loss to differentiate."""
        return loss * self.scale

    def unscale(self, gradients: Any) -> Any:
        """Gradients of the loss itself, from those of the scaled loss."""
        return tf.nest.map_structure(lambda gradient: gradient / self.scale, gradients)

    def update(self, norm: tf.Tensor) -> tf.Tensor:
        """Adjusts the scale to a step's gradient norm; returns whether it is finite, bool scalar.

        A step whose norm is not finite must be skipped.
        """
        is_finite = tf.math.is_finite(norm)
        grows = self.finite_steps + 1 >= self.growth_steps
        grown = tf.where(grows, tf.minimum(self.scale * 2.0, MAX_LOSS_SCALE), self.scale)
        finite_steps = tf.where(grows, 0, self.finite_steps + 1)
        self.scale.assign(tf.where(is_finite, grown, tf.maximum(self.scale * 0.5, 1.0)))
        self.finite_steps.assign(tf.where(is_finite, finite_steps, 0))
        return is_finite
