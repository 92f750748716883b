"""How fast training batches come, beside the decoder alone and the usual TensorFlow way.

400 x 500 JPEGs of about 40 kB in eight domains -> 224 x 224 random-resized crops, batches of 128.
The ways take turns, round by round, in one process; a rate is the median over the rounds.

    python benchmarks/input_pipeline.py
"""

import gc
import io
import json
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import psutil
import tensorflow as tf
from absl import app, flags, logging
from array_record.python import array_record_module
from PIL import Image

from universal_embedding.datasets.labels import Labels
from universal_embedding.input.decoding import decode_crop
from universal_embedding.input.draws import Draws
from universal_embedding.input.pictures import PictureOptions, training_picture
from universal_embedding.input.pipeline import training_batches

DOMAINS = flags.DEFINE_integer("domains", 8, "Number of domains.", 1)
PICTURES = flags.DEFINE_integer("pictures", 100, "Pictures of each domain.", 1)
ROUNDS = flags.DEFINE_integer("rounds", 9, "Rounds of measuring each way.", 1)
BATCHES = flags.DEFINE_integer("batches", 15, "Batches of each way in a round.", 1)
LONG = flags.DEFINE_integer("long", 2000, "Batches while memory is watched.", 200)
SIZE, BATCH, WARM_UP = 224, 128, 4
OPTIONS = PictureOptions(size=SIZE)


class Records:
    """Pictures in an ArrayRecord file."""

    split = "train"

    def __init__(self, folder: Path, domain: str, contents: list[bytes]):
        self.domain, self.labels = domain, Labels.of(range(len(contents)))
        self.image_ids = np.array([f"{i}.jpg" for i in range(len(contents))], object)
        path = str(folder / f"{domain}.array_record")
        writer = array_record_module.ArrayRecordWriter(path, "group_size:1")
        for picture in contents:
            writer.write(picture)
        writer.close()
        self._reader = array_record_module.ArrayRecordReader(path)

    def __len__(self):
        return len(self.labels)

    def read(self, numbers):
        return self._reader.read(list(numbers))


def picture(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    smooth = Image.fromarray(rng.integers(0, 256, (12, 15, 3), np.uint8))
    pixels = np.asarray(smooth.resize((500, 400), Image.BICUBIC), np.float32)
    pixels = np.clip(pixels + rng.normal(0, 6.5, pixels.shape), 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=85)
    return out.getvalue()


def from_memory(contents: list[bytes]) -> tf.data.Dataset:
    """The same decoding, cropping and resizing, and nothing else."""
    data = tf.data.Dataset.from_tensor_slices(contents).repeat().enumerate()

    def make(i, picture):
        return training_picture(picture, tf.stack([tf.cast(i, tf.int32), 0]), OPTIONS)

    data = data.map(make, num_parallel_calls=tf.data.AUTOTUNE)
    return data.batch(BATCH, drop_remainder=True).prefetch(2)


def decoder_alone(contents: list[bytes]) -> tf.data.Dataset:
    """A window as large as the mean crop, decoded and thrown away: what no way can do without."""
    data = tf.data.Dataset.from_tensor_slices(contents).repeat()
    share = np.mean(OPTIONS.scale) ** 0.5

    def window(shape):
        size = tf.cast(tf.cast(shape, tf.float32) * share, tf.int32)
        return tf.concat([(shape - size) // 2, size], 0)

    def make(picture):
        return decode_crop(picture, window)[0, 0]

    data = data.map(make, num_parallel_calls=tf.data.AUTOTUNE)
    return data.batch(BATCH, drop_remainder=True).prefetch(2)


def usual(path: str, antialias: bool) -> tf.data.Dataset:
    """TFRecord, shuffle, full decode, random-resized crop, resize, flip, batch."""

    def make(example):
        features = {"image": tf.io.FixedLenFeature([], tf.string)}
        image = tf.io.decode_jpeg(tf.io.parse_single_example(example, features)["image"], 3)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.shape(image),
            tf.zeros([1, 0, 4]),
            area_range=OPTIONS.scale,
            aspect_ratio_range=OPTIONS.ratio,
            use_image_if_no_bounding_boxes=True,
        )
        image = tf.slice(image, begin, size)
        image = tf.image.resize(image, [SIZE, SIZE], antialias=antialias)
        return tf.image.random_flip_left_right(tf.ensure_shape(image, [SIZE, SIZE, 3]))

    data = tf.data.TFRecordDataset(path).repeat().shuffle(1000)
    data = data.map(make, num_parallel_calls=tf.data.AUTOTUNE)
    return data.batch(BATCH, drop_remainder=True).prefetch(2)


def rates(ways: dict[str, tf.data.Dataset]) -> dict[str, np.ndarray]:
    """`[rounds]` pictures per second of each way, measured in turn."""
    iterators = {name: iter(data) for name, data in ways.items()}
    seen = {name: [] for name in ways}
    for round_number in range(ROUNDS.value + 1):  # the first one warms up
        for name in list(ways)[:: 1 if round_number % 2 else -1]:
            for _ in range(WARM_UP):  # what was ready before its turn
                next(iterators[name])
            start = time.perf_counter()
            for _ in range(BATCHES.value):
                next(iterators[name])
            seen[name].append(BATCHES.value * BATCH / (time.perf_counter() - start))
    return {name: np.array(values[1:]) for name, values in seen.items()}


def first_batch(records, draws, step: int) -> float:
    start = time.perf_counter()
    next(iter(training_batches(records, draws(), OPTIONS, start_step=step)))
    return time.perf_counter() - start


def memory(data: tf.data.Dataset) -> np.ndarray:
    """Resident MB after every hundredth batch."""
    process, seen = psutil.Process(), []
    for i, _ in zip(range(LONG.value), data, strict=False):
        if i % 100 == 99:
            gc.collect()
            seen.append(process.memory_info().rss / 1e6)
    return np.array(seen)


def main(_):
    logging.set_verbosity(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        contents = [
            [picture(1000 * d + i) for i in range(PICTURES.value)] for d in range(DOMAINS.value)
        ]
        every = [one for domain in contents for one in domain]
        records = {
            f"domain{d}": Records(folder, f"domain{d}", domain) for d, domain in enumerate(contents)
        }
        with tf.io.TFRecordWriter(str(folder / "usual.tfrecord")) as writer:
            for one in every:
                value = tf.train.Feature(bytes_list=tf.train.BytesList(value=[one]))
                features = tf.train.Features(feature={"image": value})
                writer.write(tf.train.Example(features=features).SerializeToString())
        print(f"{len(every)} pictures of {np.mean([len(one) for one in every]) / 1e3:.1f} kB")

        def draws():
            return Draws(records, BATCH, sampler="dataset_size")

        path = str(folder / "usual.tfrecord")
        measured = rates(
            {
                "universal_embedding": training_batches(records, draws(), OPTIONS),
                "from memory": from_memory(every),
                "cropped decode alone": decoder_alone(every),
                "usual, antialias": usual(path, antialias=True),
                "usual, no antialias": usual(path, antialias=False),
            }
        )
        ours = measured["universal_embedding"]
        print(f"{'way':22s}{'pictures/s':>12s}{'least':>8s}{'most':>8s}{'ours / it':>11s}")
        result = {}
        for way, values in measured.items():
            ratio = float(np.median(ours / values))
            result[way] = {"pictures_per_s": round(float(np.median(values)), 1), "ratio": ratio}
            print(
                f"{way:22s}{np.median(values):12.0f}{values.min():8.0f}{values.max():8.0f}"
                f"{ratio:11.3f}"
            )
        starts = {step: [] for step in (0, 10**6)}
        for _ in range(3):
            for step, seen in starts.items():
                seen.append(first_batch(records, draws, step))
        for step, seen in starts.items():
            print(f"first batch from step {step:>9,}: {np.median(seen):.2f} s")
            result[f"first_batch_{step}_s"] = round(float(np.median(seen)), 3)
        used = memory(training_batches(records, draws(), OPTIONS))
        settled = used[len(used) // 10 :]
        slope = np.polyfit(np.arange(len(settled)), settled, 1)[0] * 10
        print(
            f"memory over {LONG.value} batches: {settled.min():.0f}..{settled.max():.0f} MB, "
            f"{slope:+.1f} MB per 1,000 batches"
        )
        result["memory_mb"] = [round(x) for x in used.tolist()]
    print(json.dumps(result))


if __name__ == "__main__":
    app.run(main)
