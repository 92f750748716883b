"""Preparing: one process against two of Beam's direct runner, and memory on many small pictures.

    python benchmarks/prepare.py            # both
    python benchmarks/prepare.py --memory_pictures=0

Pictures are generated: photo-like JPEGs of 400 x 500 for speed, of 32 x 32 for memory.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from absl import app, flags
from PIL import Image

SPEED_PICTURES = flags.DEFINE_integer("speed_pictures", 30_000, "Of 400 x 500.")
MEMORY_PICTURES = flags.DEFINE_integer("memory_pictures", 200_000, "Of 32 x 32.")

TOOL = Path(__file__).resolve().parent.parent / "tools/prepare.py"
BEAM = "runner=DirectRunner,direct_num_workers=2,direct_running_mode=multi_processing"


def main(argv):
    del argv
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if SPEED_PICTURES.value:
            tree = write_tree(work / "speed", SPEED_PICTURES.value, (400, 500))
            for name, options in (("one process", []), ("Beam, 2 processes", [BEAM])):
                rows.append(measure(name, tree, work / name, options))
        if MEMORY_PICTURES.value:
            tree = write_tree(work / "memory", MEMORY_PICTURES.value, (32, 32))
            for name, options in (("one process, small", []), ("Beam, 2 processes, small", [BEAM])):
                rows.append(measure(name, tree, work / name, options, with_memory=True))
    print(f"{'':<26}{'pictures':>10}{'seconds':>10}{'pictures/s':>12}{'peak GB':>10}")
    for row in rows:
        speed = row["pictures"] / row["seconds"]
        memory = f"{row['peak_gb']:.2f}" if row["peak_gb"] else "-"
        print(
            f"{row['name']:<26}{row['pictures']:>10,}{row['seconds']:>10.1f}{speed:>12,.0f}"
            f"{memory:>10}"
        )
    print(json.dumps({"cores": os.cpu_count(), "runs": rows}))


def write_tree(root, count, size):
    """UnED's layout with one split; 200 different pictures, copied by hard links."""
    images, info = root / "images", root / "info_files/things"
    info.mkdir(parents=True)
    for number in range(count):
        file = images / f"{number // 1000:03d}/{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        if number < 200:
            rng = np.random.default_rng(number)
            coarse = rng.integers(0, 256, (12, 15, 3), np.uint8)
            photo = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))
            noisy = np.clip(photo + rng.normal(0, 6, photo.shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(file, quality=85)
        else:
            os.link(images / f"000/{number % 200}.jpg", file)
    rows = [{"path": f"{n // 1000:03d}/{n}.jpg", "class_id": n // 8} for n in range(count)]
    (info / "train.json").write_text(json.dumps(rows))
    return root


def measure(name, tree, data_dir, options, with_memory=False):
    """Seconds of the whole command, or the peak memory of its processes, which slows them."""
    count = len(json.loads((tree / "info_files/things/train.json").read_text()))
    command = [sys.executable, str(TOOL), f"--manual_dir={tree}", f"--data_dir={data_dir}"]
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
    if process.returncode:
        raise SystemExit(f"{name} failed: {error.decode()}")
    seconds = time.perf_counter() - start
    return {"name": name, "pictures": count, "seconds": seconds, "peak_gb": peak / 1e9}


def proportional_memory(pid):
    """Bytes of a process and its children; pages they share count once."""
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
    app.run(main)
