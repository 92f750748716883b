"""A process of heads.py that measures one of our methods.

Run by heads.py: heads_worker.py KIND METHOD NUM_CLASSES BATCH_SIZE DIM.
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from universal_embedding.models.heads import MarginHead


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
    expected = make_step("full", num_classes, batch_size, dim)()
    actual = make_step(method, num_classes, batch_size, dim)()
    errors = [
        np.linalg.norm(np.float64(a) - np.float64(b)) / np.linalg.norm(np.float64(b))
        for a, b in zip(actual, expected, strict=True)
    ]
    print(json.dumps(dict(zip(("loss", "embeddings", "weights"), errors, strict=True))))


WORKERS = {"timing": timing_worker, "memory": memory_worker, "exact": exactness_worker}

if __name__ == "__main__":
    WORKERS[sys.argv[1]](sys.argv[2], *map(int, sys.argv[3:]))
