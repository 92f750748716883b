"""Speed and memory of `embed`: without Beam, and by Beam with one and with two processes.

python benchmarks/embed.py --backbone=PATH/TO/efficientnet_lite0.keras

The images are generated: 400 x 500 JPEGs of 40 kB. Beam is its direct runner. Every way must write
the same bytes, also when it is killed at random moments and started again.
"""

import hashlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common
import psutil
from absl import flags

from universal_embedding.errors import UserError
from universal_embedding.export.saved_model import save_model
from universal_embedding.models.backbones import load_backbone
from universal_embedding.models.embedding_model import EmbeddingModel

BACKBONE = flags.DEFINE_string(
    "backbone", "small", "Backbone of the model: `small`, or whatever load_backbone takes."
)
NUM_IMAGES = flags.DEFINE_integer("num_images", 4000, "Images to embed.", 1)
IMAGES_PER_PART = flags.DEFINE_integer("images_per_part", 250, "Images in a part.", 1)
NUM_KILLS = flags.DEFINE_integer("num_kills", 5, "Kills of the last run.", 0)
IMAGE_SIZE = 224
REPEATS = flags.DEFINE_integer("repeats", 2, "Runs of each way; the fastest counts.", 1)
_BEAM = "runner=DirectRunner,direct_running_mode=multi_processing,direct_num_workers={}"
WAYS = {
    "one process": [],
    "Beam, 1 process": [f"--beam_pipeline_options={_BEAM.format(1)}"],
    "Beam, 2 processes": [f"--beam_pipeline_options={_BEAM.format(2)}"],
}


def save_random_model(folder):
    """Exports the backbone with a random projection to 64 dimensions."""
    backbone = load_backbone(BACKBONE.value, IMAGE_SIZE)
    save_model(EmbeddingModel(backbone, 64, IMAGE_SIZE), folder)


def start_embed(images, output, flags_of_way):
    program = [sys.executable, "-m", "universal_embedding", "embed"]
    settings = [f"--images_per_part={IMAGES_PER_PART.value}", *flags_of_way]
    model = images.parent / "model"
    return subprocess.Popen(
        [*program, f"--model={model}", f"--images={images}", f"--output={output}", *settings],
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def process_tree(process):
    try:
        root = psutil.Process(process.pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def run_embed(images, output, flags_of_way):
    """Seconds, and the peak memory of the largest process."""
    start, peak = time.perf_counter(), 0
    process = start_embed(images, output, flags_of_way)
    while process.poll() is None:
        for member in process_tree(process):
            try:
                peak = max(peak, member.memory_info().rss)
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.1)
    if process.returncode:
        raise UserError(f"embed exited with {process.returncode}; see above")
    return time.perf_counter() - start, peak


def kill_now_and_then(images, output, flags_of_way, rng):
    """Kills the whole tree at random moments, and lets the last run end."""
    num_parts = -(-NUM_IMAGES.value // IMAGES_PER_PART.value)
    for kill in range(NUM_KILLS.value):
        process = start_embed(images, output, flags_of_way)
        goal = (kill + rng.random()) * num_parts / NUM_KILLS.value
        while process.poll() is None and len(list(output.glob("*.npy"))) < goal:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 2))
        members = process_tree(process)
        for member in members:
            try:
                member.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        process.wait()
    run_embed(images, output, flags_of_way)


def digest(folder):
    content = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if not path.name.startswith("."):
            content.update(path.name.encode() + path.read_bytes())
    return content.hexdigest()


def main():
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as scratch:
        images = Path(scratch) / "images"
        images.mkdir()
        save_random_model(f"{scratch}/model")
        photos = [common.photo_like_jpeg(seed) for seed in range(64)]
        for i in range(NUM_IMAGES.value):
            (images / f"{i:06d}.jpg").write_bytes(photos[i % len(photos)])
        seconds, peak_gb, digests = {}, {}, set()
        for repeat in range(REPEATS.value):
            for number, (way, flags_of_way) in enumerate(WAYS.items()):
                output = Path(scratch) / f"{number}-{repeat}"
                elapsed, peak = run_embed(images, output, flags_of_way)
                seconds[way] = min(elapsed, seconds.get(way, elapsed))
                peak_gb[way] = max(peak / 1e9, peak_gb.get(way, 0))
                digests.add(digest(output))
                print(f"{way}: {elapsed:.1f} s, {peak / 1e9:.2f} GB a process", flush=True)
        output = Path(scratch) / "killed"
        kill_now_and_then(images, output, WAYS["Beam, 2 processes"], rng)
        result = {
            "num_images": NUM_IMAGES.value,
            "seconds": seconds,
            "images_per_second": {way: NUM_IMAGES.value / s for way, s in seconds.items()},
            "speedup_of_two_processes": seconds["Beam, 1 process"] / seconds["Beam, 2 processes"],
            "peak_gb_of_a_process": peak_gb,
            "same_bytes": len(digests) == 1,
            "kills": NUM_KILLS.value,
            "same_bytes_after_kills": {digest(output)} == digests,
        }
    for key, value in result.items():
        print(f"{key:26} {value}")
    common.print_json(result, ("numpy", "tensorflow", "apache-beam", "pyarrow"))


if __name__ == "__main__":
    common.run(main, needs_idle=True)
