"""A TPUStrategy without a TPU: its cores are logical CPUs, so steps can be built but not run.

`tf.distribute.TPUStrategy`'s own classes do all the work: variables, reductions, the rewrite of the
replicated computation. Only the answer of the TPU system to "which devices are there" is made up.
"""

import types
from collections import Counter
from unittest import mock

import numpy as np
import tensorflow as tf
from tensorflow.python.distribute import device_util, distribute_lib
from tensorflow.python.distribute.tpu_strategy import TPUExtended, TPUStrategyV2

THIS_HOST = "/job:localhost/replica:0/task:0"
CPU = f"{THIS_HOST}/device:CPU:"

# Ops without a TPU kernel that training code is likely to reach; on a TPU each is a round trip to
# the host in every step, or an error.
HOST_OPS = frozenset(
    """
    DecodeJpeg DecodeImage DecodePng DecodeAndCropJpeg EagerPyFunc ImageProjectiveTransformV3
    InplaceUpdate Print PrintV2 PyFunc PyFuncStateless RandomShuffle ResizeArea ResizeBicubic
    ResizeBicubicGrad ScaleAndTranslate ScaleAndTranslateGrad StringFormat Unique UniqueWithCounts
    Where WriteSummary
    """.split()  # noqa: SIM905
)


def fake_tpu_strategy(num_cores=2, hosts=(THIS_HOST,)):
    """A TPUStrategy over the first `num_cores` logical CPUs of each host, such as this process."""
    names = [f"{host}/device:TPU:{i}" for host in hosts for i in range(num_cores)]
    metadata = types.SimpleNamespace(
        devices=[types.SimpleNamespace(name=name) for name in names],
        num_hosts=len(hosts),
        num_cores=len(names),
        num_of_cores_per_host=num_cores,
    )
    resolver = types.SimpleNamespace(
        get_tpu_system_metadata=lambda: metadata,
        tpu_hardware_feature=None,
        cluster_spec=lambda: tf.train.ClusterSpec({}),
        task_type=None,
        task_id=None,
    )
    strategy = TPUStrategyV2.__new__(TPUStrategyV2)
    extended = TPUExtended.__new__(TPUExtended)
    with mock.patch.object(device_util, "get_host_for_device", _cpu_of_host):
        extended.__init__(strategy, resolver)
    distribute_lib.Strategy.__init__(strategy, extended)
    strategy._enable_packed_variable_in_eager_mode = False
    cores = [name.replace(":TPU:", ":CPU:") for name in names]
    extended._tpu_devices = np.array([[core] for core in cores], dtype=object)
    for host in hosts:
        of_host = [core for core in cores if core.startswith(f"{host}/")]
        extended._device_input_worker_devices[_cpu_of_host(of_host[0])] = of_host
    return strategy


def _cpu_of_host(device):
    return device.rpartition(":")[0].replace("TPU", "CPU") + ":0"


def graph_ops(concrete_function):
    """Every op of a traced function and of the functions that it calls."""
    graph = concrete_function.graph.as_graph_def()
    nodes = [*graph.node]
    for function in graph.library.function:
        nodes += function.node_def
    return nodes


def count_ops(concrete_function):
    """Counts the ops of a traced function by type."""
    return Counter(node.op for node in graph_ops(concrete_function))
