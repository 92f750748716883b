"""Accelerators by name, with the numbers that their makers publish."""

import re
from dataclasses import dataclass

from universal_embedding.errors import UserError

_GIB, _GB, _TERA = 2**30, 10**9, 10**12


@dataclass(frozen=True)
class Device:
    """A slice of accelerators. A replica is what TensorFlow counts as one device.

    Attributes:
        name: `v3-8`, `h100x8`.
        num_replicas: Number of replicas; the global batch is divided by it.
        num_hosts: Number of hosts that feed them.
        peak_flops: FLOP/s of a replica in bfloat16 (float16 on GPUs is as fast).
        peak_flops_float32: FLOP/s of a replica for float32 matrices, as TensorFlow multiplies them
            by default: rounded to bfloat16 on a TPU, to TF32 on a GPU.
        memory: Bytes of a replica.
        bandwidth: Bytes/s between a replica and its memory.
        is_tpu: Whether steps always run in XLA.
    """

    name: str
    num_replicas: int
    num_hosts: int
    peak_flops: float
    peak_flops_float32: float
    memory: int
    bandwidth: float
    is_tpu: bool


@dataclass(frozen=True)
class _Tpu:
    """A TPU version. Slices are named by `cores_per_replica` times their replicas."""

    peak: float
    memory: int
    bandwidth: float
    cores_per_replica: int
    replicas_per_host: int
    max_replicas_of_one_host: int
    sizes: tuple[int, ...]


_LARGE = (16, 32, 64, 128, 256)
_TPUS = {
    # https://cloud.google.com/tpu/docs/v3: per chip of two cores, each of them a replica, v3 123
    # TFLOP/s in bfloat16, 32 GiB, 900 GB/s; four chips a host. v2: 45 TFLOP/s and 2 x 8 GiB (Google
    # at Hot Chips 2017); its 700 GB/s were not found in a page of Google's.
    "v2": _Tpu(22.5 * _TERA, 8 * _GIB, 350 * _GB, 1, 8, 8, (8, 32, 128, 256, 512)),
    "v3": _Tpu(61.5 * _TERA, 16 * _GIB, 450 * _GB, 1, 8, 8, (8, 32, 64, 128, 256, 512, 1024, 2048)),
    # https://cloud.google.com/tpu/docs/v4: per chip 275 TFLOP/s, 32 GiB, 1200 GB/s; /v5p: 459
    # TFLOP/s, 95 GB, 2765 GB/s. Named by cores, two a chip, which run as one replica (megacore);
    # four chips a host.
    "v4": _Tpu(275 * _TERA, 32 * _GIB, 1200 * _GB, 2, 4, 4, (8, *_LARGE, 512, 1024, 2048, 4096)),
    "v5p": _Tpu(459 * _TERA, 95 * _GB, 2765 * _GB, 2, 4, 4, (8, *_LARGE, 512, 1024, 2048, 4096)),
    # https://cloud.google.com/tpu/docs/v5e, /v6e: per chip v5e 197 TFLOP/s, 16 GB, 819 GB/s; v6e
    # 918 TFLOP/s, 32 GB, 1600 GB/s. Named by chips; up to 8 on one host, larger slices have 4 a VM.
    "v5e": _Tpu(197 * _TERA, 16 * _GB, 819 * _GB, 1, 4, 8, (1, 4, 8, *_LARGE)),
    "v6e": _Tpu(918 * _TERA, 32 * _GB, 1600 * _GB, 1, 4, 8, (1, 4, 8, *_LARGE)),
}
# Dense FLOP/s in bfloat16 and TF32, memory, bandwidth of the SXM cards, as third-party pages quote
# NVIDIA's data sheets, which state twice the dense FLOP/s of the H100, H200 and L4 (with sparsity).
_GPUS = {
    # https://www.nvidia.com/en-us/data-center/a100/: 312 and 156 TFLOP/s, 1,555 and 2,039 GB/s
    "a100": (312 * _TERA, 156 * _TERA, 40 * _GB, 1555 * _GB),
    "a100-80gb": (312 * _TERA, 156 * _TERA, 80 * _GB, 2039 * _GB),
    # /h100/, /h200/: 1,979 and 989 TFLOP/s with sparsity, 3.35 and 4.8 TB/s
    "h100": (989.4 * _TERA, 494.7 * _TERA, 80 * _GB, 3350 * _GB),
    "h200": (989.4 * _TERA, 494.7 * _TERA, 141 * _GB, 4800 * _GB),
    # /l4/: 242 and 120 TFLOP/s with sparsity, 300 GB/s
    "l4": (121 * _TERA, 60 * _TERA, 24 * _GB, 300 * _GB),
}
_GPUS_PER_HOST = 8


def find_device(name: str) -> Device:
    """The device of that name: `v3-8`, `v5e-8`, `h100x8`.

    Raises:
        UserError: it is not in the table, or does not come in that size.
    """
    if match := re.fullmatch(r"(\w+)-([0-9]{1,6})", name):
        family, size = match[1], int(match[2])
        if family in _TPUS and size in _TPUS[family].sizes:
            return _make_tpu(name, _TPUS[family], size)
    if match := re.fullmatch(r"([\w-]+)x([0-9]{1,6})", name):
        family, size = match[1], int(match[2])
        is_possible = 1 <= size <= _GPUS_PER_HOST or (size and size % _GPUS_PER_HOST == 0)
        if family in _GPUS and is_possible:
            peak, peak_float32, memory, bandwidth = _GPUS[family]
            num_hosts = -(-size // _GPUS_PER_HOST)
            return Device(name, size, num_hosts, peak, peak_float32, memory, bandwidth, False)
    sizes = [f"{family}-{'|'.join(map(str, tpu.sizes))}" for family, tpu in _TPUS.items()]
    raise UserError(
        f"--device={name} is not known; there are the TPUs {', '.join(sizes)} and, with x and "
        f"their number up to {_GPUS_PER_HOST} or a multiple of it, as in h100x8, the GPUs "
        f"{', '.join(_GPUS)}"
    )


def _make_tpu(name: str, tpu: _Tpu, size: int) -> Device:
    replicas = size // tpu.cores_per_replica
    is_single_host = replicas <= tpu.max_replicas_of_one_host
    num_hosts = 1 if is_single_host else replicas // tpu.replicas_per_host
    return Device(name, replicas, num_hosts, tpu.peak, tpu.peak, tpu.memory, tpu.bandwidth, True)
