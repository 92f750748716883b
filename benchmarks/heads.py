"""Speed, memory and exactness of the margin head, compared with pytorch-metric-learning.

    python benchmarks/heads.py --torch_python=/path/to/an/environment/bin/python

A step is ArcFace forward and backward, including the gradients of embeddings and weights but not
the optimizer. Each method runs in a process of its own, and they alternate step by step. Memory is
measured in further processes: the peak resident size during a step, minus the resident size after a
step of a tiny head of the same kind, minus the weights and their gradient.
"""

import json
import os
import statistics
import subprocess
import sys
import time
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
WORKER = flags.DEFINE_string("worker", "", "Used internally, to start a worker process.")

METHODS = ("chunked", "chunked xla", "full", "full xla")
TORCH = "pytorch-metric-learning"


class FixedInitializer:
    """A Keras initializer that calls a function of the shape."""

    def __init__(self, function):
        self.function = function

    def __call__(self, shape, dtype=None):
        return self.function(shape, dtype)

    def clone(self):
        return self


def make_step(method, num_classes, batch_size, dim):
    """A function that runs one step and returns the loss and both gradients."""
    import numpy as np
    import tensorflow as tf

    from universal_embedding.models.heads import MarginHead

    def random_weights(shape, dtype=None):
        return np.random.default_rng(1).standard_normal(shape, np.float32) / 8

    is_sampled = method == "sampled"
    head = MarginHead(
        {"all": num_classes},
        dim,
        margin_type="arcface",
        margin=0.5,
        softmax_impl="chunked" if is_sampled else method.split()[0],
        num_sampled_classes=num_classes // 10 if is_sampled else None,
        initializer=FixedInitializer(random_weights),
    )
    rng = np.random.default_rng(0)
    embeddings = tf.constant(rng.standard_normal((batch_size, dim), np.float32))
    labels = tf.constant(rng.integers(0, num_classes, batch_size), tf.int32)
    domains = tf.zeros([batch_size], tf.int32)
    seed = tf.constant([0, 0])

    @tf.function(jit_compile=method.endswith("xla"))
    def step():
        weights = head.class_weights[0].value
        with tf.GradientTape() as tape:
            tape.watch(embeddings)
            loss = tf.reduce_mean(head(embeddings, labels, domains, seed=seed))
        return loss, *tape.gradient(loss, (embeddings, weights))

    return step


def timing_worker(method, num_classes, batch_size, dim):
    """Takes one step per line of standard input and prints its seconds."""
    import tensorflow as tf

    step = make_step(method, num_classes, batch_size, dim)
    start = time.perf_counter()
    step()[0].numpy()
    first_call = time.perf_counter() - start
    version = f"tensorflow {tf.__version__}"
    print(json.dumps({"version": version, "first_call": first_call}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        step()[0].numpy()
        print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)


def memory_worker(method, num_classes, batch_size, dim):
    """Prints the memory of a step in MB."""

    def read_status(key):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1e3

    make_step(method, 3000, 8, dim)()
    base = read_status("VmRSS")
    step = make_step(method, num_classes, batch_size, dim)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of creating the weights
    for _ in range(3):
        loss, _, gradient = step()
        loss.numpy()
        del gradient
    weights_size = 4e-6 * dim * num_classes
    gradient_size = 0 if method == "sampled" else weights_size  # sampled: its gradient is sparse
    peak = read_status("VmHWM")
    above = peak - base - weights_size - gradient_size
    print(json.dumps({"base": base, "peak": peak, "above": above}))


def exactness_worker(method, num_classes, batch_size, dim):
    """Prints relative differences from the full softmax."""
    import numpy as np

    expected = make_step("full", num_classes, batch_size, dim)()
    actual = make_step(method, num_classes, batch_size, dim)()
    errors = [
        np.linalg.norm(np.float64(a) - np.float64(b)) / np.linalg.norm(np.float64(b))
        for a, b in zip(actual, expected, strict=True)
    ]
    print(json.dumps(dict(zip(("loss", "embeddings", "weights"), errors, strict=True))))


WORKERS = {"timing": timing_worker, "memory": memory_worker, "exact": exactness_worker}


def spawn(kind, method, num_classes, batch_size):
    """Starts a worker process."""
    if method == TORCH:
        script = str(Path(__file__).with_name("heads_torch.py"))
        arguments = [str(n) for n in (num_classes, DIM.value, batch_size)]
        command = [TORCH_PYTHON.value, script, *arguments]
    else:
        worker = f"{kind},{method},{num_classes},{batch_size},{DIM.value}"
        command = [sys.executable, __file__, f"--worker={worker}"]
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
    if WORKER.value:
        kind, method, *numbers = WORKER.value.split(",")
        WORKERS[kind](method, *map(int, numbers))
        return
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
    common.run(main)
