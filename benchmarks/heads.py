"""Speed, memory and exactness of the margin head, compared with pytorch-metric-learning.

    python benchmarks/heads.py --torch_python=/path/to/an/environment/bin/python

A step is ArcFace forward and backward, including the gradients of embeddings and weights but not
the optimizer. Each method runs in a process of its own (heads_worker.py), and they alternate step
by step. Memory is measured in further processes: the peak resident size during a step, minus the
resident size after a step of a tiny head of the same kind, minus the weights and their gradient.
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import common
from absl import flags

CLASSES = flags.DEFINE_integer("num_classes", 316_446, "Number of classes; UnED has 316,446.", 1)
DIM = flags.DEFINE_integer("dim", 64, "Dimension of the embeddings.", 1)
BATCH_SIZES = flags.DEFINE_list("batch_sizes", ["128", "1024"], "Batch sizes.")
ROUNDS = flags.DEFINE_integer("rounds", 9, "Timed steps of each method; the median counts.", 1)
MAX_CLASSES = flags.DEFINE_integer(
    "max_classes", 5_000_000, "Classes of the largest memory measurement; 0: none.", 0
)
TORCH_PYTHON = flags.DEFINE_string(
    "torch_python", "", "Python interpreter with pytorch-metric-learning; empty: not compared."
)

METHODS = ("chunked", "chunked xla", "full", "full xla")
TORCH = "pytorch-metric-learning"


def spawn(kind, method, num_classes, batch_size):
    """Starts a worker process."""
    numbers = [str(n) for n in (num_classes, batch_size, DIM.value)]
    folder = Path(__file__).parent
    if method == TORCH:
        command = [TORCH_PYTHON.value, str(folder / "heads_torch.py"), *numbers]
    else:
        command = [sys.executable, str(folder / "heads_worker.py"), kind, method, *numbers]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)


def read_answer(process):
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"a worker process ended early: {process.args}")
    return json.loads(line)


def run_worker(kind, method, num_classes, batch_size):
    with spawn(kind, method, num_classes, batch_size) as process:
        return read_answer(process)


def measure_times(batch_size):
    """Seconds of a step by method; the methods alternate."""
    names = [*METHODS, *([TORCH] if TORCH_PYTHON.value else [])]
    workers = {name: spawn("timing", name, CLASSES.value, batch_size) for name in names}
    first_answers = {name: read_answer(worker) for name, worker in workers.items()}
    seconds = {name: [] for name in names}
    for round_index in range(ROUNDS.value + 1):  # the first one warms up
        for name, worker in workers.items():
            worker.stdin.write("\n")
            worker.stdin.flush()
            step_seconds = read_answer(worker)["seconds"]
            if round_index:
                seconds[name].append(step_seconds)
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    result = {}
    for name in names:
        first_call = first_answers[name].get("first_call")
        result[name] = {
            "median": statistics.median(seconds[name]),
            "min": min(seconds[name]),
            "first_call": first_call,
            "version": first_answers[name]["version"],
        }
        print(
            f"batch {batch_size:5d}  {name:24s} median {result[name]['median']:6.3f} s, min "
            f"{result[name]['min']:6.3f} s  "
            + (f"first call {first_call:5.2f}" if first_call is not None else ""),
            flush=True,
        )
    return result


def main():
    batch_sizes = [int(batch_size) for batch_size in BATCH_SIZES.value]
    result = {"num_classes": CLASSES.value, "cores": os.cpu_count()}
    result["seconds"] = {batch_size: measure_times(batch_size) for batch_size in batch_sizes}
    result["relative_error"] = {}
    for method in ("chunked", "chunked xla"):
        error = run_worker("exact", method, CLASSES.value, batch_sizes[0])
        result["relative_error"][method] = error
        print(f"{method:12s} against full, relative:", {k: f"{v:.1e}" for k, v in error.items()})
    cases = [(method, CLASSES.value, size) for method in METHODS for size in batch_sizes]
    if MAX_CLASSES.value:
        large_methods = ("chunked", "chunked xla", "sampled")
        cases += [(method, MAX_CLASSES.value, batch_sizes[0]) for method in large_methods]
    result["memory_mb"] = {}
    for method, num_classes, batch_size in cases:
        memory = run_worker("memory", method, num_classes, batch_size)
        result["memory_mb"][f"{method}, {num_classes} classes, batch {batch_size}"] = memory
        print(
            f"{method:12s} {num_classes:9,d} classes, batch {batch_size:5d}: peak "
            f"{memory['peak']:6.0f} MB in all, {memory['above']:5.0f} MB above weights"
            + ("" if method == "sampled" else " and gradient"),
            flush=True,
        )
    common.print_json(result)


if __name__ == "__main__":
    common.run(main, needs_idle=True)
