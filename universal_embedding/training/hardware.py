"""The devices that a run uses: what to record of them, their peak FLOP/s and used memory."""

import importlib.metadata
import os
from typing import Any

import tensorflow as tf

from universal_embedding.errors import UserError
from universal_embedding.models.distribution import num_hosts_and_id
from universal_embedding.training.dry_run.devices import Device, find_device

_GPU_FAMILIES = {
    "H200": "h200",
    "H100": "h100",
    "A100-SXM4-80GB": "a100-80gb",
    "A100": "a100",
    "NVIDIA L4": "l4",
}


def describe_hardware(strategy: tf.distribute.Strategy) -> dict[str, Any]:
    """Facts about a run's devices, for `config.json` and the log."""
    facts = {
        "strategy": type(strategy).__name__,
        "num_replicas": strategy.num_replicas_in_sync,
        "num_hosts": num_hosts_and_id(strategy)[0],
        "devices": _device_kinds(),
        "cpu_count": os.cpu_count(),
    }
    for name in ("tensorflow-tpu", "libtpu"):
        try:
            facts[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return facts


def detect_device(strategy: tf.distribute.Strategy) -> Device | None:
    """The entry of `dry_run.devices` for this run's devices; None where it has none (CPUs)."""
    kinds = _device_kinds()
    size = strategy.num_replicas_in_sync
    if isinstance(strategy, tf.distribute.TPUStrategy):
        name = kinds[0]
    else:
        families = [family for kind, family in _GPU_FAMILIES.items() if kind in kinds[0]]
        name = f"{families[0]}x{size}" if families else ""
    try:
        return find_device(name)
    except UserError:
        return None


def peak_memory() -> int | None:
    """Most bytes that this host's fullest accelerator has held; None where it does not count."""
    peaks = []
    for device in [*tf.config.list_logical_devices("GPU"), *tf.config.list_logical_devices("TPU")]:
        try:
            peaks.append(tf.config.experimental.get_memory_info(device.name)["peak"])
        except (ValueError, tf.errors.OpError):  # not supported by this kind of device
            return None
    return max(peaks, default=None)


def _device_kinds() -> list[str]:
    """Names of this host's kinds of accelerators; `CPU` without one."""
    accelerator = os.environ.get("TPU_ACCELERATOR_TYPE")  # set on TPU VMs: v3-8, v5litepod-8
    if accelerator:
        return [accelerator.replace("v5litepod", "v5e")]
    details = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    return sorted({detail.get("device_name", "GPU") for detail in details}) or ["CPU"]
