"""Distribution strategies: one device, several, several hosts, or a TPU."""

import contextlib
import importlib.metadata
import json
import logging
import os
import socket
import time

import tensorflow as tf

from universal_embedding.errors import UserError

WAIT_SECONDS = 1200.0  # a machine that replaces a lost one takes minutes to start
STRATEGIES = ("one_device", "mirrored", "multi_worker", "tpu")


def make_strategy(
    name: str = "one_device", tpu: str = "", allow_unproven_slice: bool = False
) -> tf.distribute.Strategy:
    """Makes the `tf.distribute` strategy of a run; call it before any other use of TensorFlow.

    Float32 then means float32: TensorFlow's default is TF32 on GPUs, and bfloat16 within products
    on TPUs. Backbones in bfloat16 take as long as before.

    Args:
        name: `one_device`; `mirrored`, all GPUs of this host (or logical CPUs where there is no
            GPU); `multi_worker`, the hosts in the TF_CONFIG variable; `tpu`.
        tpu: `local` on a TPU VM, or the name or address of a TPU.
        allow_unproven_slice: Whether the TPU may have several hosts, where no step was ever run.

    Raises:
        UserError: there is no such strategy, TF_CONFIG is missing, a worker or a TPU does not
            answer, or the TPU has several hosts.
    """
    tf.config.experimental.enable_tensor_float_32_execution(False)
    if name == "one_device":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        return mirrored()
    if name == "multi_worker":
        wait_for_workers()
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "tpu":
        try:
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(tpu)
        except (ValueError, RuntimeError, tf.errors.OpError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"--tpu={tpu!r} cannot be reached: {reason}; {_tpu_remedy()}"
            ) from error
        _check_slice(tpu, resolver.get_tpu_system_metadata().num_hosts, allow_unproven_slice)
        return tf.distribute.TPUStrategy(resolver)
    raise UserError(f"--strategy is {name!r}; it must be one of {', '.join(STRATEGIES)}")


def _check_slice(tpu: str, num_hosts: int, is_allowed: bool) -> None:
    """Refuses a TPU of several hosts, or warns of it: their input is tested, their steps are not.

    A wrong sum over hosts would not fail, it would train to another result.
    """
    if num_hosts == 1:
        return
    unproven = f"--tpu={tpu!r} is a slice of {num_hosts} hosts, on which no step was ever run"
    if not is_allowed:
        raise UserError(
            f"{unproven}; use a TPU of one host, such as v3-8, or add --allow_unproven_slice after "
            "reading 'TPU slices of several hosts' in docs/design.md"
        )
    logging.warning(
        "%s; before you trust it, compare losses and data_fingerprint of its first steps with "
        "those on one host",
        unproven,
    )


def _tpu_remedy() -> str:
    """The likely reason why no TPU answers, from the distributions that are installed."""
    installed = {distribution.name.lower() for distribution in importlib.metadata.distributions()}
    if "tensorflow-tpu" in installed and "tensorflow" not in installed:
        return "on a TPU VM use --tpu=local; elsewhere give the name or address of a running TPU"
    return (
        "plain TensorFlow is installed, alone or over tensorflow-tpu, and has no TPU kernels; run "
        "`pip uninstall -y tensorflow tensorflow-tpu` and then "
        "`pip install --no-deps tensorflow-tpu==2.20.0`"
    )


def mirrored(num_replicas: int | None = None) -> tf.distribute.MirroredStrategy:
    """A strategy over this host's first `num_replicas` GPUs, or logical CPUs if it has no GPU."""
    gpus = tf.config.list_logical_devices("GPU")
    devices = [device.name for device in gpus or tf.config.list_logical_devices("CPU")]
    # TensorFlow's collectives on CPUs mix up strategies that are made in one process.
    reduction = None if gpus else tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(devices[:num_replicas], cross_device_ops=reduction)


def wait_for_workers(seconds: float = WAIT_SECONDS) -> None:
    """Returns when all workers of TF_CONFIG are there.

    TensorFlow would wait for a missing one forever, deaf to signals. Until all others answer, this
    worker listens at its address; those that are further listen there as TensorFlow does.

    Args:
        seconds: How long to wait.

    Raises:
        UserError: a worker did not answer in time, or this one's address is taken or unknown.
    """
    addresses, index = _read_tf_config()
    missing = [address for i, address in enumerate(addresses) if i != index]
    deadline = time.monotonic() + seconds
    with contextlib.ExitStack() as stack:
        if missing:
            stack.enter_context(_listen(addresses[index]))
        while missing:
            missing = [address for address in missing if not _answers(address)]
            if missing and time.monotonic() > deadline:
                raise UserError(
                    f"no answer from {', '.join(missing)} within {seconds:.0f} seconds; start the "
                    "command on all workers of TF_CONFIG, and check that they reach each other"
                )
            time.sleep(0.2)


def _read_tf_config() -> tuple[list[str], int]:
    """The addresses of the workers, and the index of this one."""
    try:
        config = json.loads(os.environ["TF_CONFIG"])
        addresses, index = list(config["cluster"]["worker"]), int(config["task"]["index"])
        if config["task"]["type"] != "worker" or not 0 <= index < len(addresses):
            raise ValueError("no such worker")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"--strategy=multi_worker, but TF_CONFIG={os.environ.get('TF_CONFIG', '')!r} names no "
            'worker; set it on every worker: {"cluster": {"worker": ["host:port", ...]}, '
            '"task": {"type": "worker", "index": 0}}'
        ) from error
    return addresses, index


def _listen(address: str) -> socket.socket:
    port = int(address.rpartition(":")[2])
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("", port))
    except OSError as error:
        raise UserError(
            f"TF_CONFIG gives this worker the address {address}, but its port cannot be used "
            f"({error.strerror}); end the program that uses it, or choose another port"
        ) from error
    listener.listen()
    return listener


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except OSError:
        return False
    return True
