"""Distribution strategies: one device, several, several hosts, or a TPU."""

import os
from collections.abc import Sequence

import tensorflow as tf

from universal_embedding.errors import UserError

STRATEGIES = ("one_device", "mirrored", "multi_worker", "tpu")


def make_strategy(name: str = "one_device", tpu: str = "") -> tf.distribute.Strategy:
    """Makes the `tf.distribute` strategy of a run; call it before any other use of TensorFlow.

    Args:
        name: `one_device`; `mirrored`, all GPUs of this host (or logical CPUs where there is no
            GPU); `multi_worker`, the hosts in the TF_CONFIG variable; `tpu`.
        tpu: `local` on a TPU VM, or the name or address of a TPU.

    Raises:
        UserError: there is no such strategy, TF_CONFIG is missing, or no TPU answers.
    """
    if name == "one_device":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        return mirrored()
    if name == "multi_worker":
        if "TF_CONFIG" not in os.environ:
            raise UserError(
                "--strategy=multi_worker, but the environment has no TF_CONFIG; set it on every "
                'worker: {"cluster": {"worker": ["host:port", ...]}, '
                '"task": {"type": "worker", "index": 0}}'
            )
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "tpu":
        try:
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(tpu)
        except (ValueError, RuntimeError, tf.errors.OpError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"--tpu={tpu!r} cannot be reached: {reason}; on a TPU VM use --tpu=local and "
                "install the extra `tpu` instead of `cpu`"
            ) from error
        return tf.distribute.TPUStrategy(resolver)
    raise UserError(f"--strategy is {name!r}; it must be one of {', '.join(STRATEGIES)}")


def mirrored(num_replicas: int | None = None) -> tf.distribute.MirroredStrategy:
    """A strategy over this host's first `num_replicas` GPUs, or logical CPUs if it has no GPU."""
    gpus = tf.config.list_logical_devices("GPU")
    devices = [device.name for device in gpus or tf.config.list_logical_devices("CPU")]
    # TensorFlow's collectives on CPUs mix up strategies that are made in one process.
    reduction = None if gpus else tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(devices[:num_replicas], cross_device_ops=reduction)


def num_hosts_and_id(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """The number of hosts that feed the run, and the index of this one among them."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 1, 0
    resolver = strategy.cluster_resolver
    return len(resolver.cluster_spec().as_dict()["worker"]), resolver.task_id


def all_reduce_max(values: Sequence[float], strategy: tf.distribute.Strategy) -> list[float]:
    """The maximum of each value over all hosts, so that they decide alike; each must call it."""
    if num_hosts_and_id(strategy)[0] == 1:
        return list(values)

    @tf.function
    def reduce_max(host_values: tf.Tensor) -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        return tf.reduce_max(context.all_gather(host_values[None], axis=0), axis=0)

    result = strategy.run(reduce_max, args=(tf.constant(values, tf.float32),))
    return strategy.experimental_local_results(result)[0].numpy().tolist()
