"""Where a run computes: one device, several, several hosts, or a TPU."""

import os
from collections.abc import Sequence

import tensorflow as tf

from universal_embedding.errors import UserError

NAMES = ("one_device", "mirrored", "multi_worker", "tpu")


def make_strategy(name: str = "one_device", tpu: str = "") -> tf.distribute.Strategy:
    """Makes the `tf.distribute` strategy of a run; call it before anything else of TensorFlow.

    Args:
        name: `one_device`; `mirrored`, all GPUs of this host (or logical CPUs where there is no
            GPU); `multi_worker`, the hosts that the TF_CONFIG variable lists; `tpu`.
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
                f"--tpu={tpu!r} cannot be reached: {reason}; on a TPU VM give --tpu=local and "
                "install the extra `tpu` instead of `cpu`"
            ) from error
        return tf.distribute.TPUStrategy(resolver)
    raise UserError(f"--strategy is {name!r}; it must be one of {', '.join(NAMES)}")


def mirrored(replicas: int | None = None) -> tf.distribute.MirroredStrategy:
    """A strategy over the first `replicas` GPUs of this host, or logical CPUs if it has no GPU."""
    gpus = tf.config.list_logical_devices("GPU")
    devices = [device.name for device in gpus or tf.config.list_logical_devices("CPU")]
    # TensorFlow's collectives on CPUs mix up strategies that are made in one process.
    reduction = None if gpus else tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(devices[:replicas], cross_device_ops=reduction)


def hosts(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """How many hosts feed the run, and which of them this one is."""
    cluster = strategy.cluster_resolver
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 1, 0
    return len(cluster.cluster_spec().as_dict()["worker"]), cluster.task_id


def highest(values: Sequence[float], strategy: tf.distribute.Strategy) -> list[float]:
    """The largest of every host's values, so that all hosts decide alike; each must call it."""
    if hosts(strategy)[0] == 1:
        return list(values)

    @tf.function
    def gather(own: tf.Tensor) -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        return tf.reduce_max(context.all_gather(own[None], axis=0), axis=0)

    result = strategy.run(gather, args=(tf.constant(values, tf.float32),))
    return strategy.experimental_local_results(result)[0].numpy().tolist()
