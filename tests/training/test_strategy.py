import json
import re
import threading
import time
import types

import pytest
import tensorflow as tf

from tests.helpers.cluster import free_addresses
from universal_embedding import cli
from universal_embedding.errors import UserError
from universal_embedding.training.strategy import make_strategy, wait_for_workers


@pytest.fixture
def set_worker(monkeypatch):
    def set_index(addresses, index):
        task = {"type": "worker", "index": index}
        config = {"cluster": {"worker": addresses}, "task": task}
        monkeypatch.setenv("TF_CONFIG", json.dumps(config))

    return set_index


def test_worker_waits_until_all_others_answer(set_worker):
    addresses, ends = free_addresses(2), {}

    def wait(index):
        wait_for_workers(seconds=10)
        ends[index] = time.monotonic()

    set_worker(addresses, 0)
    first = threading.Thread(target=wait, args=[0])
    first.start()
    time.sleep(0.5)
    assert first.is_alive()
    start = time.monotonic()
    set_worker(addresses, 1)  # the first has read its own
    wait(1)
    first.join()
    assert ends.keys() == {0, 1} and min(ends.values()) >= start


def test_worker_that_never_comes_is_named(set_worker):
    addresses = free_addresses(3)
    set_worker(addresses, 1)
    with pytest.raises(UserError, match=f"no answer from {addresses[0]}, {addresses[2]} within"):
        wait_for_workers(seconds=0.3)
    wait_alone = free_addresses(1)
    set_worker(wait_alone, 0)
    wait_for_workers(seconds=0)


def test_port_in_use_is_a_user_error(set_worker):
    from universal_embedding.training import strategy

    addresses = free_addresses(2)
    set_worker(addresses, 0)
    with strategy._listen(addresses[0]), pytest.raises(UserError, match="port cannot be used"):
        wait_for_workers(seconds=1)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "x",
        "{}",
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "chief", "index": 0}}',
    ],
)
def test_tf_config_without_this_worker_is_a_user_error(monkeypatch, value):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if value is not None:
        monkeypatch.setenv("TF_CONFIG", value)
    with pytest.raises(UserError, match="names no worker; set it on every worker"):
        make_strategy("multi_worker")


@pytest.mark.parametrize(
    ("installed", "remedy"),
    [
        (["tensorflow"], "has no TPU kernels; run `pip uninstall -y tensorflow tensorflow-tpu`"),
        (["tensorflow-tpu", "tensorflow"], "alone or over tensorflow-tpu, and has no TPU kernels"),
        (["tensorflow-tpu"], "--tpu=local; elsewhere give the name or address"),
    ],
)
def test_unreachable_tpu_names_the_likely_cause(monkeypatch, installed, remedy):
    class Resolver:
        @classmethod
        def connect(cls, tpu):
            raise ValueError("no such TPU")

    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", Resolver)
    found = [types.SimpleNamespace(name=name) for name in installed]
    monkeypatch.setattr("importlib.metadata.distributions", lambda: found)
    with pytest.raises(UserError, match=re.escape(remedy)):
        make_strategy("tpu", tpu="local")


def test_float32_products_are_float32():
    tf.config.experimental.enable_tensor_float_32_execution(True)
    make_strategy()
    assert not tf.config.experimental.tensor_float_32_execution_enabled()
    compiled = tf.function(lambda a, b: tf.matmul(a, b), jit_compile=True)
    hlo = compiled.experimental_get_compiler_ir(tf.eye(8), tf.eye(8))(stage="hlo")
    assert "operand_precision={highest,highest}" in hlo


@pytest.fixture
def slice_of(monkeypatch):
    """Makes a TPU of so many hosts answer, without a strategy over it."""

    def answer(num_hosts):
        metadata = types.SimpleNamespace(num_hosts=num_hosts)
        resolver = types.SimpleNamespace(get_tpu_system_metadata=lambda: metadata)
        connect = types.SimpleNamespace(connect=lambda tpu: resolver)
        monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", connect)
        monkeypatch.setattr(tf.distribute, "TPUStrategy", lambda found: found is resolver)

    return answer


def test_tpu_slices_of_several_hosts_must_be_asked_for(slice_of, caplog):
    slice_of(num_hosts=1)
    assert make_strategy("tpu", tpu="v3-8")
    slice_of(num_hosts=4)
    with pytest.raises(UserError, match=r"--tpu='pod' is a slice of 4 hosts, on which no step was"):
        make_strategy("tpu", tpu="pod")
    assert not caplog.records
    assert make_strategy("tpu", tpu="pod", allow_unproven_slice=True)
    assert "slice of 4 hosts, on which no step was ever run" in caplog.text


def test_the_data_service_of_a_slice_is_refused(capsys):
    flags = ["--config=uned:runlocal", "--workdir=run", "--data_service=grpc://localhost:1"]
    with pytest.raises(SystemExit):
        cli.main(["train", *flags, "--tpu=pod", "--allow_unproven_slice"])
    error = capsys.readouterr().err
    assert error.startswith("error: --data_service=grpc://localhost:1 cannot feed a TPU slice")
    assert error.count("\n") == 1
