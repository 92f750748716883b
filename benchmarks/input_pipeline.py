"""Speed of training batches, compared with decoding alone and with the usual tf.data pipeline.

JPEGs of 400 x 500 (40 kB) and of 1200 x 1600, in eight domains of 13 shards each -> 224 x 224
random-resized crops, batches of 128, by the pipeline that training uses. The pipelines alternate,
round by round, in one process, and none fills its buffers while another is timed; a rate is the
median over the rounds.

    python benchmarks/input_pipeline.py
"""

import gc
import os
import resource
import sys
import tempfile
import threading
import time
from pathlib import Path

import common
import numpy as np
import psutil
import tensorflow as tf
from absl import flags

from universal_embedding.input import pipeline
from universal_embedding.input.batch_sampler import BatchSampler
from universal_embedding.input.images import AugmentationConfig, preprocess_train
from universal_embedding.input.pipeline import training_batches
from universal_embedding.input.record_reader import RecordReader

ROUNDS = flags.DEFINE_integer("rounds", 7, "Timed rounds; the median counts.", 1)
BATCHES_PER_ROUND = flags.DEFINE_integer("batches_per_round", 40, "Batches in a round.", 1)
MEMORY_BATCHES = flags.DEFINE_integer(
    "memory_batches", 1000, "Batches over which resident memory is watched.", 200
)
NUM_DOMAINS, SHARDS_PER_DOMAIN, IMAGE_SIZE, BATCH_SIZE, NUM_WARMUP = 8, 13, 224, 128, 10
AUGMENTATION = AugmentationConfig(size=IMAGE_SIZE)
OURS = "universal_embedding"


def from_memory(images: list[bytes]) -> tf.data.Dataset:
    """The same decoding, cropping and resizing of images in memory, and nothing else."""
    dataset = tf.data.Dataset.from_tensor_slices(images).repeat().enumerate()

    def preprocess(i, contents):
        seed = tf.stack([tf.cast(i, tf.int32), 0])
        return preprocess_train(contents, seed, AUGMENTATION)

    dataset = dataset.map(preprocess, num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.batch(BATCH_SIZE, drop_remainder=True).prefetch(2)


def usual_pipeline(paths: list[str], antialias: bool) -> tf.data.Dataset:
    """TFRecord, shuffle, full decode, random-resized crop, resize, flip, batch."""

    def preprocess(example):
        features = {"image": tf.io.FixedLenFeature([], tf.string)}
        image = tf.io.decode_jpeg(tf.io.parse_single_example(example, features)["image"], 3)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.shape(image),
            tf.zeros([1, 0, 4]),
            area_range=AUGMENTATION.scale,
            aspect_ratio_range=AUGMENTATION.ratio,
            use_image_if_no_bounding_boxes=True,
        )
        image = tf.slice(image, begin, size)
        image = tf.image.resize(image, [IMAGE_SIZE, IMAGE_SIZE], antialias=antialias)
        return tf.image.random_flip_left_right(tf.ensure_shape(image, [IMAGE_SIZE, IMAGE_SIZE, 3]))

    dataset = tf.data.TFRecordDataset(paths).repeat().shuffle(1000)
    dataset = dataset.map(preprocess, num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.batch(BATCH_SIZE, drop_remainder=True).prefetch(2)


def measure(pipelines: dict[str, tf.data.Dataset], num_batches: int) -> dict[str, np.ndarray]:
    """`[rounds, 2]` of each pipeline: images per second, and microseconds of CPU per image."""
    results = {name: [] for name in pipelines}
    for round_index in range(ROUNDS.value):
        for name in list(pipelines)[:: 1 if round_index % 2 else -1]:
            iterator = iter(pipelines[name])
            for _ in range(NUM_WARMUP):  # starts, and fills the buffers
                next(iterator)
            start, cpu = time.perf_counter(), time.process_time()
            for _ in range(num_batches):
                next(iterator)
            count = num_batches * BATCH_SIZE
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
            results[name].append([count / seconds, cpu / count * 1e6])
            del iterator  # ends its threads
            gc.collect()
    return {name: np.array(values) for name, values in results.items()}


def compare(records, images: list[bytes], num_batches: int) -> dict:
    """Prints and returns the rates of all pipelines."""
    paths = [path for r in records.values() for path in r.shard_paths]
    results = measure(
        {
            OURS: training_batches(records, make_sampler(records), AUGMENTATION),
            "files not mapped": streamed_batches(records),
            "from memory": from_memory(images),
            "usual, antialias": usual_pipeline(paths, antialias=True),
            "usual, no antialias": usual_pipeline(paths, antialias=False),
        },
        num_batches,
    )
    table = {}
    print(f"{'pipeline':22s}{'images/s':>9s}{'min':>7s}{'max':>7s}{'ours / it':>11s}{'CPU us':>9s}")
    for name, values in results.items():
        rates, ratio = values[:, 0], float(np.median(results[OURS][:, 0] / values[:, 0]))
        cpu = float(np.median(values[:, 1]))
        table[name] = {
            "images_per_second": round(float(np.median(rates)), 1),
            "ratio": round(ratio, 3),
            "cpu_microseconds": round(cpu, 1),
        }
        print(
            f"{name:22s}{np.median(rates):9.0f}{rates.min():7.0f}{rates.max():7.0f}{ratio:11.3f}"
            f"{cpu:9.0f}"
        )
    extra = np.median(results[OURS][:, 1] - results["from memory"][:, 1])
    table["cpu_microseconds_besides_decode_crop_resize"] = round(float(extra), 1)
    print(f"CPU besides the same decode, crop, resize and batching: {extra:.0f} us per image")
    return table


def streamed_batches(records) -> tf.data.Dataset:
    """The pipeline as it reads from gs://: each record by a TFRecordDataset at its byte."""
    pipeline.RecordReader = lambda records, **_: RecordReader(records, memory_map=False)
    try:
        return training_batches(records, make_sampler(records), AUGMENTATION)
    finally:
        pipeline.RecordReader = RecordReader


def time_first_batch(records, step: int) -> float:
    """Seconds from nothing to the batch of a step."""
    start = time.perf_counter()
    next(iter(training_batches(records, make_sampler(records), AUGMENTATION, start_step=step)))
    return time.perf_counter() - start


def watch_memory(dataset: tf.data.Dataset) -> np.ndarray:
    """Resident MB, without the pages of mapped files, after every hundredth batch."""
    process, resident = psutil.Process(), []
    for i, _ in zip(range(MEMORY_BATCHES.value), dataset, strict=False):
        if i % 100 == 99:
            gc.collect()
            memory = process.memory_info()
            resident.append((memory.rss - memory.shared) / 1e6)
    return np.array(resident)


def count_python_calls(dataset: tf.data.Dataset, num_batches: int = 40) -> float:
    """Python function calls per batch, of all threads."""
    iterator, calls = iter(dataset), 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event == "call"

    threading.setprofile(count)  # of threads that Python starts, and of any that call it
    sys.setprofile(count)
    try:
        next(iterator)
        calls = 0
        for _ in range(num_batches):
            next(iterator)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return calls / num_batches


def measure_python_share(dataset: tf.data.Dataset, num_batches: int = 40) -> float:
    """Share of the process's CPU time that the Python thread takes to fetch batches."""
    iterator = iter(dataset)
    next(iterator)
    cpu, own = time.process_time(), time.thread_time()
    for _ in range(num_batches):
        next(iterator)
    return (time.thread_time() - own) / (time.process_time() - cpu)


def count_open_files(folder: Path, images: list[bytes], num_shards: int = 3000) -> dict:
    """Most files open while batches are read from many shards with room for 1,024."""
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    )
    many = [images[i % len(images)] for i in range(num_shards)]
    records = {"many": common.ShardedRecords(folder, "many", many, num_shards)}
    most = {}
    for name, dataset in (
        ("mapped", training_batches(records, make_sampler(records), AUGMENTATION)),
        ("not mapped", streamed_batches(records)),
    ):
        iterator, most[name] = iter(dataset), 0
        for _ in range(num_shards // BATCH_SIZE + 1):  # all shards
            next(iterator)
            most[name] = max(most[name], len(os.listdir("/proc/self/fd")))
    return most


def make_sampler(records, batch_size: int = BATCH_SIZE) -> BatchSampler:
    return BatchSampler(records, batch_size, sampler="dataset_size")


def write_domains(folder: Path, images: list[bytes], name: str):
    """Records of eight domains; the images come round in turn."""
    count = max(len(images) // NUM_DOMAINS, SHARDS_PER_DOMAIN)
    domains = {}
    for d in range(NUM_DOMAINS):
        part = [images[(d * count + i) % len(images)] for i in range(count)]
        key = f"{name}{d}"
        domains[key] = common.ShardedRecords(folder, key, part, SHARDS_PER_DOMAIN)
    return domains


def main():
    result = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = [common.photo_like_jpeg(i) for i in range(520)]
        large = [common.synthetic_jpeg(i, 1600, 1200, noise=6.5, quality=85) for i in range(52)]
        for size, images, num_batches in (
            ("400x500", small, BATCHES_PER_ROUND.value),
            ("1200x1600", large, max(1, BATCHES_PER_ROUND.value // 4)),
        ):
            kilobytes = np.mean([len(image) for image in images]) / 1e3
            print(f"{size}: {kilobytes:.1f} kB, {NUM_DOMAINS * SHARDS_PER_DOMAIN} shards")
            records = write_domains(folder, images, size)
            result[size] = compare(records, images, num_batches)
        records = write_domains(folder, small, "again")
        time_first_batch(records, 0)
        for step in (0, 10**6):
            seconds = float(np.median([time_first_batch(records, step) for _ in range(3)]))
            print(f"first batch from step {step:>9,}: {seconds:.2f} s")
            result[f"first_batch_{step}_seconds"] = round(seconds, 3)
        ours = training_batches(records, make_sampler(records), AUGMENTATION)
        for batch_size in (BATCH_SIZE // 4, BATCH_SIZE):  # equal: none is per image
            sampler = make_sampler(records, batch_size)
            calls = count_python_calls(training_batches(records, sampler, AUGMENTATION))
            print(f"Python calls per batch of {batch_size}: {calls:.0f}")
            result[f"python_calls_per_batch_of_{batch_size}"] = calls
        share = measure_python_share(ours)
        print(f"CPU time of the Python thread: {100 * share:.2f} %")
        result["python_share_of_cpu"] = round(share, 5)
        resident = watch_memory(ours)
        settled = resident[len(resident) // 5 :]
        slope = np.polyfit(np.arange(len(settled)), settled, 1)[0] * 10
        print(
            f"memory over {MEMORY_BATCHES.value} batches: {settled.min():.0f}..{settled.max():.0f} "
            f"MB, {slope:+.1f} MB per 1,000 batches"
        )
        result["memory_mb"] = [round(megabytes) for megabytes in resident.tolist()]
        result["most_open_files"] = count_open_files(folder, small)
        print(f"open files with 3,000 shards, of 1,024: {result['most_open_files']}")
    common.print_json(result, ("numpy", "tensorflow"))


if __name__ == "__main__":
    common.run(main, needs_idle=True)
