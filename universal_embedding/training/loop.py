"""Many steps in one call of one compiled function."""

from collections.abc import Iterator

import tensorflow as tf

from universal_embedding.training.step import Step


class Loop:
    """`loop(iterator, n)` takes n steps on the strategy's replicas.

    Args:
        step: What one replica does with its slice of a batch.
        strategy: Where the replicas are.
    """

    def __init__(self, step: Step, strategy: tf.distribute.Strategy) -> None:
        self._step, self._strategy = step, strategy
        self._run = tf.function(self._many)

    def __call__(self, batches: Iterator, steps: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Takes `steps` steps on the next batches of a distributed data set's iterator.

        Returns:
            `[steps, losses + 1, domains]` float32, the summed `objectives.loss_names` by domain
            and, last, the number of examples, over all replicas; and `[steps]` float32, the norm
            of all gradients.
        """
        return self._run(batches, tf.constant(steps, tf.int32))

    def _many(self, batches: Iterator, steps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        all_sums = tf.TensorArray(tf.float32, steps)
        all_norms = tf.TensorArray(tf.float32, steps)
        for i in tf.range(steps):
            sums, norm = self._strategy.run(self._step, args=(next(batches),))
            all_sums = all_sums.write(i, self._strategy.reduce("SUM", sums, axis=None))
            all_norms = all_norms.write(i, self._strategy.reduce("MEAN", norm, axis=None))
        return all_sums.stack(), all_norms.stack()
