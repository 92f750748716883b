"""Speed, memory and exactness of the margin head, paired with pytorch-metric-learning.

    python benchmarks/heads.py --torch_python=/path/to/an/environment/bin/python

A step is ArcFace forward and backward, gradients of embeddings and weights included, optimizer
not. Each method runs in a process of its own and they take turns, step by step. Memory is measured
in further processes: the highest resident size during a step, less what was resident after a step
of a tiny head of the same kind, less the weights and their gradient.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from absl import flags

from universal_embedding import command

CLASSES = flags.DEFINE_integer("classes", 316_446, "Number of classes; UnED has 316,446.")
DIMENSION = flags.DEFINE_integer("dimension", 64, "Size of the embedding.")
BATCHES = flags.DEFINE_list("batches", ["128", "1024"], "Batch sizes.")
ROUNDS = flags.DEFINE_integer("rounds", 9, "Timed steps of each method; the median counts.")
BIG = flags.DEFINE_integer("big", 5_000_000, "Classes of the largest memory run; 0: none.")
TORCH = flags.DEFINE_string("torch_python", "", "Interpreter with pytorch-metric-learning.")
WORKER = flags.DEFINE_string("worker", "", "Used by the program itself.")

METHODS = ("chunked", "chunked xla", "plain", "plain xla")


def make_step(method, classes, batch, dimension):
    """A function that runs one step and returns loss and both gradients."""
    import numpy as np
    import tensorflow as tf

    from universal_embedding.models.heads import MarginHead

    def start(shape, dtype=None):
        rng = np.random.default_rng(1)
        return rng.standard_normal(shape, np.float32) / 8

    options = {"samples": classes // 10} if method == "sampled" else {}
    name = "chunked" if options else method.split()[0]
    head = MarginHead(
        {"all": classes}, dimension, margin=0.5, method=name, initializer=Fixed(start), **options
    )
    rng = np.random.default_rng(0)
    embeddings = tf.constant(rng.standard_normal((batch, dimension), np.float32))
    labels = tf.constant(rng.integers(0, classes, batch), tf.int32)
    domains = tf.zeros([batch], tf.int32)
    seed = tf.constant([0, 0])

    @tf.function(jit_compile=method.endswith("xla"))
    def step():
        weights = head.class_weights[0].value
        with tf.GradientTape() as tape:
            tape.watch(embeddings)
            loss = tf.reduce_mean(head(embeddings, labels, domains, seed=seed))
        return loss, *tape.gradient(loss, (embeddings, weights))

    return step


class Fixed:
    """An initializer that is a function."""

    def __init__(self, function):
        self.function = function

    def __call__(self, shape, dtype=None):
        return self.function(shape, dtype)

    def clone(self):
        return self


def timing_worker(method, classes, batch, dimension):
    import tensorflow as tf

    step = make_step(method, classes, batch, dimension)
    start = time.perf_counter()
    step()[0].numpy()
    first = time.perf_counter() - start
    print(json.dumps({"version": f"tensorflow {tf.__version__}", "first": first}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        step()[0].numpy()
        print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)


def memory_worker(method, classes, batch, dimension):
    def status(key):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1e3

    make_step(method, 3000, 8, dimension)()
    base = status("VmRSS")
    step = make_step(method, classes, batch, dimension)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of making the weights
    for _ in range(3):
        loss, _, gradient = step()
        loss.numpy()
        size = 4e-6 * dimension * classes
        held = 0 if method == "sampled" else size
        del gradient
    peak = status("VmHWM")
    print(json.dumps({"base": base, "peak": peak, "above": peak - base - size - held}))


def exactness_worker(method, classes, batch, dimension):
    import numpy as np

    want = [np.float64(t) for t in make_step("plain", classes, batch, dimension)()]
    got = [np.float64(t) for t in make_step(method, classes, batch, dimension)()]
    error = [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(got, want, strict=True)]
    print(json.dumps(dict(zip(("loss", "embeddings", "weights"), error, strict=True))))


def spawn(kind, method, classes, batch):
    arguments = [str(classes), str(batch), str(DIMENSION.value)]
    if method == "pytorch-metric-learning":
        script = str(Path(__file__).with_name("heads_torch.py"))
        line = [TORCH.value, script, str(classes), str(DIMENSION.value), str(batch)]
    else:
        line = [sys.executable, __file__, f"--worker={','.join([kind, method, *arguments])}"]
    pipe = subprocess.PIPE
    return subprocess.Popen(line, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)


def answer(process):
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"a worker ended: {process.args}")
    return json.loads(line)


def once(kind, method, classes, batch):
    with spawn(kind, method, classes, batch) as process:
        return answer(process)


def times(batch):
    """Median seconds by method, all taking turns."""
    names = [*METHODS, *(["pytorch-metric-learning"] if TORCH.value else [])]
    workers = {name: spawn("timing", name, CLASSES.value, batch) for name in names}
    firsts = {name: answer(worker) for name, worker in workers.items()}
    seconds = {name: [] for name in names}
    for number in range(ROUNDS.value + 1):  # the first is thrown away
        for name, worker in workers.items():
            worker.stdin.write("\n")
            worker.stdin.flush()
            taken = answer(worker)["seconds"]
            if number:
                seconds[name].append(taken)
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    result = {}
    for name in names:
        result[name] = {
            "median": statistics.median(seconds[name]),
            "least": min(seconds[name]),
            "first": firsts[name].get("first"),
            "version": firsts[name]["version"],
        }
        first = f"first call {result[name]['first']:5.2f}" if "first" in firsts[name] else ""
        print(
            f"batch {batch:5d}  {name:24s} median {result[name]['median']:6.3f} s, least "
            f"{result[name]['least']:6.3f} s  {first}",
            flush=True,
        )
    return result


def main(argv):
    if WORKER.value:
        kind, method, *numbers = WORKER.value.split(",")
        workers = {"timing": timing_worker, "memory": memory_worker, "exact": exactness_worker}
        return workers[kind](method, *map(int, numbers))
    result = {"classes": CLASSES.value, "cores": os.cpu_count(), "seconds": {}, "memory_mb": {}}
    for batch in map(int, BATCHES.value):
        result["seconds"][batch] = times(batch)
    for method in ("chunked", "chunked xla"):
        error = once("exact", method, CLASSES.value, int(BATCHES.value[0]))
        result[f"relative error of {method}"] = error
        print(f"{method:12s} against plain, relative:", {k: f"{v:.1e}" for k, v in error.items()})
    runs = [(m, CLASSES.value, int(b)) for m in METHODS for b in BATCHES.value]
    if BIG.value:
        runs += [
            (m, BIG.value, int(BATCHES.value[0])) for m in ("chunked", "chunked xla", "sampled")
        ]
    for method, classes, batch in runs:
        memory = once("memory", method, classes, batch)
        result["memory_mb"][f"{method}, {classes} classes, batch {batch}"] = memory
        print(
            f"{method:12s} {classes:9,d} classes, batch {batch:5d}: peak {memory['peak']:6.0f} MB "
            f"in all, {memory['above']:5.0f} MB above weights and gradient",
            flush=True,
        )
    print(json.dumps(result))


if __name__ == "__main__":
    command.run(main)
