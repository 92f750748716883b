"""Start-up, synthetic images, records and the JSON line of the benchmark programs."""

import datetime
import io
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # Python gets every error that matters

import machine_load
import numpy as np
import psutil
from absl import app, flags, logging
from PIL import Image

from universal_embedding.datasets.examples import Labels
from universal_embedding.datasets.tfrecord import RecordWriter, encode_example
from universal_embedding.errors import UserError
from universal_embedding.versions import library_versions

ROOT = Path(__file__).resolve().parent.parent
ALLOW_BUSY = flags.DEFINE_bool(
    "allow_busy", False, "Measure speed on a busy machine too; the result is marked as busy."
)
_load = None  # of the machine, while `run` is running


def run(main, needs_idle=False):
    """Parses absl flags, calls `main()`, which ends with `print_json`, and exits.

    Exit codes: 0 on success, 1 with one line on standard error for a `UserError` or a wrong flag,
    130 after Ctrl-C.

    Args:
        main: Measures.
        needs_idle: Whether it measures speed, which other programs disturb: it then refuses to
            start on a busy machine, unless --allow_busy. The load is recorded in any case.
    """

    def measure():
        global _load
        _load = machine_load.watch(needs_idle, ALLOW_BUSY.value)
        _load.start()
        main()

    start(measure)


def start(main):
    """Parses absl flags, calls `main()` and exits; what `run` does without looking at the load."""
    logging.set_verbosity(logging.WARNING)
    logging.use_absl_handler()
    app.run(lambda _: _run_guarded(main), flags_parser=_parse_flags)


def _parse_flags(argv):
    try:
        program, *arguments = flags.FLAGS(argv)
    except flags.Error as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    if arguments:
        sys.exit(f"error: unexpected argument {arguments[0]!r}; flags are written --name=value")
    return [program]


def _run_guarded(main):
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def print_json(result, libraries=("numpy", "tensorflow", "keras")):
    """Prints `result` as one line, the last, with all that the measurement depends on."""
    _load.stop()
    environment = {
        "command": describe_command(sys.argv),
        "commit": describe_commit(),
        "date": datetime.date.today().isoformat(),
        "machine": describe_machine(),
        "versions": library_versions(libraries),
        **_load.summary(),
    }
    print(json.dumps({**result, **environment}))


def describe_command(argv):
    """The command line without the folders of this machine."""
    program, *arguments = argv
    arguments = [re.sub(r"(?<=[=,])[^=,]*/", "PATH/TO/", argument) for argument in arguments]
    return " ".join(["python", f"benchmarks/{Path(program).name}", *arguments])


def describe_commit():
    """The commit of the checkout, with `-changed` where its code is not that of the commit."""

    def git(*arguments):
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)

    commit = git("rev-parse", "--short", "HEAD")
    if commit.returncode:
        return None
    code = ("universal_embedding", "configs", "benchmarks/*.py")
    is_changed = git("status", "--porcelain", "--", *code).stdout
    return commit.stdout.strip() + ("-changed" if is_changed else "")


def describe_machine():
    """Processor, number of cores and memory."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    memory = psutil.virtual_memory().total / 2**30
    return f"{(names or [platform.machine()])[0]}, {os.cpu_count()} cores, {memory:.0f} GB"


def synthetic_jpeg(seed, width, height, grid=(12, 15), noise=0.0, quality=75):
    """Bytes of a JPEG: a random `grid` (rows, columns) of colors, enlarged smoothly, plus noise.

    Args:
        seed: Equal seeds give equal images.
        width: In pixels.
        height: In pixels.
        grid: Rows and columns of the coarse image.
        noise: Standard deviation in gray levels; it sets how large the file is.
        quality: JPEG quality.
    """
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (*grid, 3), np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    if noise:
        pixels = np.clip(pixels + rng.normal(0, noise, pixels.shape), 0, 255)
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=quality)
    return file.getvalue()


def photo_like_jpeg(seed):
    """Bytes of a JPEG of 400 x 500 (height x width) and about 40 kB."""
    return synthetic_jpeg(seed, 500, 400, noise=6.5, quality=85)


class ShardedRecords:
    """Training records of one domain in TFRecord shards, as `universal-embedding prepare` writes.

    Every image is a class of its own.

    Args:
        folder: Where the shards go.
        domain: Key of the domain.
        images: N encoded images.
        num_shards: Number of shards, at most N.
    """

    split = "train"

    def __init__(self, folder: Path, domain: str, images: list[bytes], num_shards: int):
        self.domain, self.labels = domain, Labels.from_rows(range(len(images)))
        self.image_ids = np.array([f"{i}.jpg" for i in range(len(images))], object)
        self.shards = (np.arange(len(images)) * num_shards // len(images)).astype(np.int32)
        self.shard_paths, lengths, offsets = [], [], []
        for shard in range(num_shards):
            self.shard_paths.append(str(folder / f"{domain}-train.tfrecord-{shard:05d}"))
            with RecordWriter(self.shard_paths[-1]) as writer:
                for i in np.flatnonzero(self.shards == shard):
                    writer.write(encode_example(images[i], [i], self.image_ids[i]))
            lengths += writer.lengths
            offsets += np.cumsum([0, *writer.lengths])[:-1].tolist()
        self.offsets, self.lengths = np.array(offsets), np.array(lengths)

    def __len__(self):
        return len(self.labels)


def train_to_end(experiment, evaluators=None):
    """Trains an experiment with the default hooks.

    Raises:
        UserError: SIGTERM ended the training.
    """
    from universal_embedding.training.hooks import default_hooks
    from universal_embedding.training.trainer import train

    if not train(experiment, default_hooks(experiment, evaluators)):
        raise UserError("interrupted by SIGTERM; rerun the command")
