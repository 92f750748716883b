"""Build and search an index of a hundred million rows, in shards.

python benchmarks/hundred_million.py --workdir=DIR             100,000,000 rows in 10 shards
python benchmarks/hundred_million.py --workdir=DIR --shards=2  the first two, and an extrapolation
python benchmarks/hundred_million.py --workdir=DIR --rows=2000000 --rows_per_shard=500000

An interrupted call resumes at the finished shards, and so does one with more of them. The
embeddings are generated, the same in every run: unit rows of 64 numbers around random centers
(deviation 0.6 of the centers' own), ten rows to a center, all in one shard; queries are further
rows around centers of the first shard. Their truth is searched exactly in float32, while the index
holds int8.
"""

import dataclasses
import json
import multiprocessing
import shutil
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import common
import numpy as np
from absl import flags

from universal_embedding.errors import UserError
from universal_embedding.files import atomic_write
from universal_embedding.search import scann_ops
from universal_embedding.search.index_rows import RowCodec
from universal_embedding.search.neighbors import recall
from universal_embedding.search.scann_index import ScannIndex
from universal_embedding.search.sharded import ShardedIndex, shard_name

WORKDIR = flags.DEFINE_string("workdir", None, "Where to write the shards.", required=True)
ROWS = flags.DEFINE_integer("rows", 100_000_000, "Number of rows.", 1)
ROWS_PER_SHARD = flags.DEFINE_integer("rows_per_shard", 10_000_000, "Rows in a shard.", 1)
SHARDS = flags.DEFINE_integer("shards", None, "Build only the first shards, and extrapolate.", 1)
TARGET_RECALL = flags.DEFINE_float(
    "target_recall", 0.99, "Recall@5 that a shard is tuned to reach."
)
BUILD_GFLOP = flags.DEFINE_float(
    "build_gflop", 35_000, "Largest cost of assigning the rows of a shard to leaves, in GFLOP."
)
NUM_QUERIES = flags.DEFINE_integer("num_queries", 10_000, "Queries that are timed.", 1)
NUM_EXACT = flags.DEFINE_integer("num_exact", 1_000, "Queries that are searched exactly, too.", 1)
DIM, K = 64, 5
BLOCK, ROWS_PER_CENTER, NOISE = 1 << 16, 10, np.float32(0.6)


def block_centers(shard, block):
    """`[6554, 64]` float32, the centers of a block of rows."""
    rng = np.random.default_rng((0, shard, block))
    return rng.standard_normal((-(-BLOCK // ROWS_PER_CENTER), DIM), np.float32)


def rows_around(centers, count, rng):
    """`[count, 64]` float32 unit rows."""
    rows = centers[rng.integers(0, len(centers), count)]
    rows += NOISE * rng.standard_normal(rows.shape, np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def generate_shard(shard, num_rows):
    """`[num_rows, 64]` float32, the rows of a shard."""
    rows = np.empty((num_rows, DIM), np.float32)
    for block, start in enumerate(range(0, num_rows, BLOCK)):
        rng = np.random.default_rng((1, shard, block))
        count = min(BLOCK, num_rows - start)
        rows[start : start + count] = rows_around(block_centers(shard, block), count, rng)
    return rows


def generate_queries(num_rows):
    """`[num_queries, 64]` float32, from the first blocks of the first shard."""
    rng = np.random.default_rng(2)
    num_blocks = min(100, -(-num_rows // BLOCK))
    counts = np.diff(np.linspace(0, NUM_QUERIES.value, num_blocks + 1).astype(int)).tolist()
    queries = [rows_around(block_centers(0, b), count, rng) for b, count in enumerate(counts)]
    return rng.permutation(np.concatenate(queries))


def memory(field):
    """A size from /proc/self/status, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) * 1024


def forget_peak():
    Path("/proc/self/clear_refs").write_text("5")


def build(folder, sizes, queries):
    """Builds what is missing; writes the seconds, memory and exact neighbors of each shard."""
    codec = RowCodec.fit("int8", generate_shard(0, min(sizes[0], 20 * BLOCK)))
    seconds = {}

    def read_shard(shard):
        start = time.perf_counter()
        rows = generate_shard(shard, sizes[shard])
        generated = time.perf_counter()
        ids = scann_ops.search_exactly(rows, queries, K)
        scores = np.einsum("qd,qkd->qk", queries, rows[ids])
        with atomic_write(folder / f"truth-{shard:05d}.npz", "wb") as file:
            np.savez(file, ids=ids, scores=scores)
        seconds.update(generate=generated - start, exact=time.perf_counter() - generated)
        return rows, np.zeros(0, np.int64)

    def make_shard():
        search = ScannIndex(TARGET_RECALL.value, "int8", BUILD_GFLOP.value, on_disk=True)
        search.codec = codec
        return search

    blocks = [lambda shard=shard: read_shard(shard) for shard in range(len(sizes))]
    for shard in range(len(sizes)):
        if not (folder / f"measured-{shard:05d}.json").exists():  # killed before it was written
            shutil.rmtree(folder / shard_name(shard), ignore_errors=True)
    forget_peak()
    start = time.perf_counter()
    for shard, search in ShardedIndex.build(folder, blocks, make_shard):
        if search is not None:
            seconds["build"] = time.perf_counter() - start - sum(seconds.values())
            record = {
                "rows": sizes[shard],
                "seconds": dict(seconds),
                "peak_gb": memory("VmHWM") / 1e9,
                "config": dataclasses.asdict(search.config),
            }
            with atomic_write(folder / f"measured-{shard:05d}.json") as file:
                json.dump(record, file)
            print(f"{shard_name(shard)}: {record}", flush=True)
        del search
        seconds.clear()
        forget_peak()
        start = time.perf_counter()
    return [
        json.loads((folder / f"measured-{shard:05d}.json").read_text())
        for shard in range(len(sizes))
    ]


def merge_truth(folder, sizes):
    """`[Q, 5]` ids of the exact neighbors of all shards."""
    ids, scores, start = [], [], 0
    for shard, size in enumerate(sizes):
        with np.load(folder / f"truth-{shard:05d}.npz") as file:
            ids.append(file["ids"] + start)
            scores.append(file["scores"])
        start += size
    order = np.argsort(-np.concatenate(scores, 1), 1, kind="stable")[:, :K]
    return np.take_along_axis(np.concatenate(ids, 1), order, 1)


def measure_search(folder, queries, truth):
    """Speed, memory and recall of the saved shards."""
    scann_ops.build_brute_force(queries[:10])  # imports ScaNN
    before = memory("RssAnon")
    start = time.perf_counter()
    index = ShardedIndex.load(folder)
    load_seconds = time.perf_counter() - start
    code_memory = memory("RssAnon") - before
    found, _ = index.query(queries[: len(truth)], K)
    times = []
    for _ in range(3):  # the first reads rows from the disk
        start = time.perf_counter()
        index.query(queries, K)
        times.append(time.perf_counter() - start)
    latencies = []
    for query in queries[:100]:
        start = time.perf_counter()
        index.query(query[None], K)
        latencies.append(time.perf_counter() - start)
    return {
        "recall_at_5": recall(found, truth),
        "queries_per_second": len(queries) / min(times),
        "queries_per_second_at_first": len(queries) / times[0],
        "median_milliseconds": 1000 * statistics.median(latencies),
        "load_seconds": load_seconds,
        "code_memory_gb": code_memory / 1e9,
        "peak_gb_searching": memory("VmHWM") / 1e9,
    }


def main():
    folder = Path(WORKDIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    step = ROWS_PER_SHARD.value
    all_sizes = [min(step, ROWS.value - start) for start in range(0, ROWS.value, step)]
    sizes = all_sizes[: SHARDS.value]
    queries = generate_queries(sizes[0])
    settings = [ROWS.value, step, TARGET_RECALL.value, BUILD_GFLOP.value, NUM_EXACT.value]
    stamp = folder / "settings.json"
    if stamp.exists() and json.loads(stamp.read_text()) != settings:
        raise UserError(f"{folder} holds shards of other settings: name another --workdir")
    stamp.write_text(json.dumps(settings))
    free = shutil.disk_usage(folder).free
    print(f"{len(sizes)} of {len(all_sizes)} shards; {free / 1e9:.0f} GB free", flush=True)
    measured = build(folder, sizes, queries[: NUM_EXACT.value])
    truth = merge_truth(folder, sizes)
    # In a process of its own, whose memory holds nothing of the build.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        searched = pool.submit(measure_search, folder, queries, truth).result()
    disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    built = [record["seconds"]["build"] for record in measured]
    fraction = sum(sizes) / ROWS.value
    result = {
        "rows": ROWS.value,
        "rows_built": sum(sizes),
        "shards": len(sizes),
        "num_queries": len(queries),
        "num_exact_queries": len(truth),
        **searched,
        "build_seconds_per_shard": built,
        "peak_gb_building": max(record["peak_gb"] for record in measured),
        "disk_gb": disk / 1e9,
        "config": measured[0]["config"],
    }
    if fraction < 1:
        result["extrapolated"] = {
            "build_hours": statistics.mean(built) * len(all_sizes) / 3600,
            "queries_per_second": searched["queries_per_second"] * fraction,
            "code_memory_gb": searched["code_memory_gb"] / fraction,
            "disk_gb": disk / 1e9 / fraction,
        }
    for key, value in result.items():
        print(f"{key:24} {value:.4f}" if isinstance(value, float) else f"{key:24} {value}")
    common.print_json(result, ("numpy", "scann"))


if __name__ == "__main__":
    common.run(main, needs_idle=True)
