"""The same batches wherever they are made: other file systems, hosts, processes, services."""

import collections
import itertools
import socket
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.distribute import distribute_lib, input_util, tpu_strategy

from tests.helpers.fake_records import make_domains
from tests.helpers.processes import run, start
from universal_embedding.errors import UserError
from universal_embedding.input.batch_sampler import BatchSampler
from universal_embedding.input.images import AugmentationConfig
from universal_embedding.input.pipeline import (
    DataService,
    evaluation_batches,
    gather_rows,
    record_batches,
    training_batches,
)
from universal_embedding.models.distribution import distribute

SIZES = {"a": 7, "b": 9}
MIXING = AugmentationConfig(size=16, mixup=0.4, cutmix=1.0)
FULL = AugmentationConfig(
    size=16, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, randaugment=1,
    random_erasing=0.09, mixup=0.2, cutmix=1.0,
)  # fmt: skip
# Ops that call Python, which no other process can do.
PYTHON_OPS = {"PyFunc", "PyFuncStateless", "EagerPyFunc", "GeneratorDataset"}


def make_sampler(records, batch_size=8):
    return BatchSampler(records, batch_size, seed=1, mixed=True)


def take(dataset, n=3):
    return list(itertools.islice(dataset.as_numpy_iterator(), n))


def assert_equal(batches, expected):
    assert len(batches) == len(expected)
    for a, b in zip(batches, expected, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_batches_from_a_remote_file_system_equal_those_from_local_files():
    local, remote = make_domains(SIZES), make_domains(SIZES, folder="ram://test_hosts")
    assert remote["a"].shard_paths[0].startswith("ram://")
    for make in (
        lambda records: training_batches(records, make_sampler(records), MIXING, 5),
        lambda records: evaluation_batches(records["b"], 4, 16, "crop"),
    ):
        assert_equal(take(make(remote)), take(make(local)))


def ask_remote_hosts(role, *arguments, num_hosts=1):
    """Runs a client of hosts in other processes; returns the lines that it prints."""
    ports = [free_port() for _ in range(num_hosts)]
    servers = [start("-m", "tests.helpers.remote_input", "server", port) for port in ports]
    try:
        assert all(server.stdout.readline().strip() == "ready" for server in servers)
        addresses = ",".join(map(str, ports))
        code, out, err = run("-m", "tests.helpers.remote_input", role, addresses, *arguments)
    finally:
        for server in servers:
            server.kill()
            server.communicate()
    assert code == 0, err[-3000:]
    return out.splitlines()


@pytest.fixture(scope="module")
def remote_answers(tmp_path_factory):
    return ask_remote_hosts("client", tmp_path_factory.mktemp("remote"))


def test_batches_made_by_another_process_are_the_same(remote_answers):
    assert len(remote_answers[0]) == 64 and len(set(remote_answers[:4])) == 1


def test_files_that_a_remote_host_does_not_see_are_refused(remote_answers):
    here, remote = remote_answers[4:]
    assert here == "seen"
    assert remote.startswith("host 3 of the run does not see ram://folder/a.tfrecord; put")


@pytest.mark.slow
def test_a_stage_feeds_every_core_of_a_tpu_slice_from_its_own_host(tmp_path):
    """Two hosts of two cores, by TPUStrategy's own input code; three steps."""
    lines = ask_remote_hosts("slice", tmp_path, num_hosts=2)
    sliced, whole = lines[0::2], lines[1::2]
    assert len(sliced) == len(whole) == 3 * 4
    for core, (line, expected) in enumerate(zip(sliced, whole, strict=True)):
        digest, device = line.split()
        assert digest == expected
        assert device == f"/job:worker/replica:0/task:{core % 4 // 2}/device:CPU:{core % 2}"
    assert len(set(whole)) == 3 * 4


@pytest.fixture(scope="module")
def data_service():
    """Address of a dispatcher with two workers on loopback."""
    service = tf.data.experimental.service
    ports = [free_port(), free_port()]
    addresses = [f"localhost:{port}" for port in ports]
    dispatcher = service.DispatchServer(service.DispatcherConfig(worker_addresses=addresses))
    workers = [
        service.WorkerServer(
            service.WorkerConfig(
                dispatcher_address=dispatcher.target.removeprefix("grpc://"),
                worker_address=address,
                port=port,
            )
        )
        for port, address in zip(ports, addresses, strict=True)
    ]
    yield dispatcher.target
    del workers, dispatcher


@pytest.mark.slow
@pytest.mark.parametrize("num_hosts", [1, 2])
def test_data_service_keeps_the_batches_and_their_order(data_service, num_hosts):
    records = make_domains(SIZES)
    arguments = (records, make_sampler(records), MIXING, 7, num_hosts)
    service = DataService(data_service, f"job-{num_hosts}")
    hosts = [iter(training_batches(*arguments, h, service)) for h in range(num_hosts)]
    with ThreadPoolExecutor(num_hosts) as pool:  # hosts take their steps at the same time
        steps = [list(pool.map(next, hosts)) for _ in range(7)]
    for h in range(num_hosts):
        batches = [{k: v.numpy() for k, v in step[h].items()} for step in steps]
        assert_equal(batches, take(training_batches(*arguments, h), 7))


def test_data_service_needs_equal_slices():
    records = make_domains(SIZES)
    with pytest.raises(UserError, match="batch_size 8 does not divide equally over 3 hosts"):
        service = DataService("grpc://localhost:1", "job")
        training_batches(records, make_sampler(records), MIXING, 0, 3, 0, service)


def list_ops(dataset):
    graph = tf.compat.v1.GraphDef()
    serialized = tf.raw_ops.DatasetToGraphV2(input_dataset=tf.data.experimental.to_variant(dataset))
    graph.ParseFromString(serialized.numpy())
    functions = [node.op for f in graph.library.function for node in f.node_def]
    return {node.op for node in graph.node} | set(functions)


def test_no_graph_calls_python():
    records = make_domains(SIZES)
    sampler = make_sampler(records)
    rows = [np.zeros((n, 3), np.float32) for n in SIZES.values()]
    for dataset in (
        training_batches(records, sampler, FULL),
        gather_rows(record_batches(records, sampler), "features", rows),
        evaluation_batches(records["a"], 4, 16),
    ):
        ops = list_ops(dataset)
        assert len(ops) > 20
        assert not ops & PYTHON_OPS
    # the list is not blind
    generator = tf.data.Dataset.from_generator(lambda: [1], output_signature=tf.TensorSpec([]))
    with_python = generator.map(lambda x: tf.numpy_function(np.abs, [x], tf.float32))
    assert "PyFunc" in {node for f in with_python._functions() for node in _ops_of(f)}


def _ops_of(function):
    return [op.type for op in function.function.graph.get_operations()]


def make_tpu_strategy(num_hosts, cores_per_host, monkeypatch):
    """A TPUStrategy without TPUs: its own code makes the contexts of its hosts."""
    strategy = tpu_strategy.TPUStrategyV2.__new__(tpu_strategy.TPUStrategyV2)
    extended = tpu_strategy.TPUExtended.__new__(tpu_strategy.TPUExtended)
    distribute_lib.StrategyExtendedV2.__init__(extended, strategy)
    extended._tpu_metadata = types.SimpleNamespace(num_cores=num_hosts * cores_per_host)
    extended._device_assignment, extended._enable_data_reorder = None, False
    extended._device_input_worker_devices = collections.OrderedDict(
        (f"/job:worker/task:{h}/device:CPU:0", [f"/job:worker/task:{h}/device:TPU:0"])
        for h in range(num_hosts)
    )
    distribute_lib.Strategy.__init__(strategy, extended)

    def on_all_hosts(function, input_workers, contexts, *_, **__):
        datasets = collections.UserList(function(context) for context in contexts)
        datasets.element_spec = datasets[0].element_spec
        return datasets

    monkeypatch.setattr(input_util, "get_distributed_datasets_from_function", on_all_hosts)
    return strategy


def test_four_hosts_of_a_tpu_get_four_disjoint_quarters(monkeypatch):
    records = make_domains({"a": 40, "b": 50})
    strategy = make_tpu_strategy(4, 2, monkeypatch)
    sampler = make_sampler(records, batch_size=16)

    def make_dataset(num_hosts, host_id):
        return record_batches(records, sampler, 3, num_hosts, host_id)

    datasets = list(distribute(make_dataset, strategy))
    assert len(datasets) == 4
    spec = sampler.batch_at(3)
    for h, dataset in enumerate(datasets):
        assert dataset.element_spec["record"].shape == [2]  # one of the host's two cores
        cores = take(dataset, 2)
        for name in ("domain", "record"):
            quarter = getattr(spec, name)[4 * h : 4 * (h + 1)]
            np.testing.assert_array_equal(np.concatenate([c[name] for c in cores]), quarter)
