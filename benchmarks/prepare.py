"""Speed and memory of `universal-embedding prepare`: one process, and two of Beam's DirectRunner.

    python benchmarks/prepare.py
    python benchmarks/prepare.py --memory_images=0    # speed alone

The images are generated: photo-like JPEGs of 400 x 500 for speed, of 32 x 32 for memory.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common
import psutil
from absl import flags

from universal_embedding.errors import UserError

SPEED_IMAGES = flags.DEFINE_integer(
    "speed_images", 30_000, "Images of 400 x 500 in the speed measurement; 0: leave it out.", 0
)
MEMORY_IMAGES = flags.DEFINE_integer(
    "memory_images", 200_000, "Images of 32 x 32 in the memory measurement; 0: leave it out.", 0
)

BEAM = "runner=DirectRunner,direct_num_workers=2,direct_running_mode=multi_processing"
NUM_DIFFERENT = 200  # images; the others are hard links to them
IMAGES_PER_CLASS = 8


def main():
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if SPEED_IMAGES.value:
            manual_dir = write_images(work / "speed", SPEED_IMAGES.value, (400, 500))
            for name, options in (("one process", []), ("Beam, 2 processes", [BEAM])):
                rows.append(measure(name, manual_dir, work / name, options))
        if MEMORY_IMAGES.value:
            manual_dir = write_images(work / "memory", MEMORY_IMAGES.value, (32, 32))
            for name, options in (("one process, small", []), ("Beam, 2 processes, small", [BEAM])):
                rows.append(measure(name, manual_dir, work / name, options, with_memory=True))
    print(f"{'':<26}{'images':>10}{'seconds':>10}{'images/s':>12}{'peak GB':>10}")
    for row in rows:
        rate = row["num_images"] / row["seconds"]
        memory = f"{row['peak_gb']:.2f}" if row["peak_gb"] else "-"
        print(
            f"{row['name']:<26}{row['num_images']:>10,}{row['seconds']:>10.1f}{rate:>12,.0f}"
            f"{memory:>10}"
        )
    libraries = ("tensorflow", "tensorflow-datasets", "apache-beam")
    common.print_json({"cores": os.cpu_count(), "runs": rows}, libraries)


def write_images(root, num_images, size):
    """Writes one split in UnED's layout; `size` is (width, height)."""
    images, info_files = root / "images", root / "info_files/things"
    info_files.mkdir(parents=True)
    names = [f"{i // 1000:03d}/{i}.jpg" for i in range(num_images)]
    for i, name in enumerate(names):
        path = images / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if i < NUM_DIFFERENT:
            path.write_bytes(common.synthetic_jpeg(i, *size, noise=6, quality=85))
        else:
            os.link(images / names[i % NUM_DIFFERENT], path)
    rows = [{"path": name, "class_id": i // IMAGES_PER_CLASS} for i, name in enumerate(names)]
    (info_files / "train.json").write_text(json.dumps(rows))
    return root


def measure(name, manual_dir, data_dir, options, with_memory=False):
    """Runs the command; reading the memory of its processes slows it down."""
    num_images = len(json.loads((manual_dir / "info_files/things/train.json").read_text()))
    command = [sys.executable, "-m", "universal_embedding", "prepare"]
    command += [f"--manual_dir={manual_dir}", f"--data_dir={data_dir}"]
    command += [f"--beam_pipeline_options={option}" for option in options]
    start, peak = time.perf_counter(), 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        os.set_blocking(process.stderr.fileno(), False)
        error = b""
        while process.poll() is None:
            error = (error + (process.stderr.read() or b""))[-2000:]
            if with_memory:
                peak = max(peak, proportional_memory(process.pid))
            time.sleep(0.3)
        error += process.stderr.read() or b""
    if process.returncode:
        raise UserError(f"`prepare` failed ({name}): {error.decode()}")
    seconds = time.perf_counter() - start
    return {"name": name, "num_images": num_images, "seconds": seconds, "peak_gb": peak / 1e9}


def proportional_memory(pid):
    """Bytes of a process and its children; pages that they share count once."""
    total = 0
    try:
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            try:
                total += process.memory_full_info().pss
            except (psutil.Error, OSError):
                continue
    except psutil.Error:
        return total
    return total


if __name__ == "__main__":
    common.run(main, needs_idle=True)
