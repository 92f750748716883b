"""Speed and recall of nearest neighbours, beside faiss and hnswlib.

python benchmarks/retrieval.py --part=challenge    5,000 queries, 200,000 x 64 (a minute)
python benchmarks/retrieval.py --part=exact        the merged UnED test size (6 minutes)
python benchmarks/retrieval.py --part=approximate  the same, ScaNN and hnswlib (10 minutes)

The embeddings are generated: unit rows around random centres, ten index pictures to a centre.
"""

import datetime
import importlib.metadata
import json
import os
import platform
import time
from pathlib import Path

import numpy as np
import psutil
from absl import app, flags

from universal_embedding.retrieval.approximate import ScannTree
from universal_embedding.retrieval.exact import BruteForce
from universal_embedding.retrieval.neighbours import recall

PART = flags.DEFINE_enum("part", "challenge", ["challenge", "exact", "approximate"], "What.")
QUERIES = flags.DEFINE_integer("queries", 241_986, "Queries of the merged UnED test size.")
INDEX = flags.DEFINE_integer("index", 1_397_126, "Index pictures of the merged UnED test size.")
SAMPLE = flags.DEFINE_integer("sample", 20_000, "Queries on which the approximate are measured.")
DIMENSION, K = 64, 5


def clustered(rows: int, centres: int, seed: int) -> np.ndarray:
    """`[rows, 64]` float32 unit rows; the centres do not depend on the seed."""
    middle = np.random.default_rng(0).standard_normal((centres, DIMENSION), np.float32)
    rng = np.random.default_rng(seed)
    made = middle[rng.integers(0, centres, rows)]
    made += np.float32(0.6) * rng.standard_normal((rows, DIMENSION), np.float32)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return made


def timed(call, repeats=1):
    """Shortest time of `repeats` calls, in seconds, and what the last gave."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        result = call()
        times.append(time.perf_counter() - began)
    return min(times), result


def peak_memory():
    """The most memory that this process has held so far, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def challenge():
    """5,000 queries in 200,000: exact and faiss by turns, then approximate."""
    import faiss

    index, queries = clustered(200_000, 20_000, 1), clustered(5_000, 20_000, 2)
    flat = faiss.IndexFlatIP(DIMENSION)
    flat.add(index)
    ours, tree = BruteForce(), ScannTree(recall=0.9999)
    ours.index(index)
    build, _ = timed(lambda: tree.index(index))
    searches = {
        "faiss": lambda: flat.search(queries, K)[1],
        "exact": lambda: ours.query(queries, K)[0],
        "approximate": lambda: tree.query(queries, K)[0],
    }
    times = {name: [] for name in searches}
    found = {name: search() for name, search in searches.items()}  # warm
    for _ in range(9):
        for name, search in searches.items():
            times[name].append(timed(search)[0])
    ratios = [f / e for f, e in zip(times["faiss"], times["exact"], strict=True)]
    faster = [e / a for e, a in zip(times["exact"], times["approximate"], strict=True)]
    return {
        "seconds": {name: float(np.median(values)) for name, values in times.items()},
        "exact_speed_of_faiss": float(np.median(ratios)),
        "exact_same_neighbours_as_faiss": float((found["exact"] == found["faiss"]).mean()),
        "approximate_speed_of_exact": float(np.median(faster)),
        "approximate_recall_at_5": recall(found["approximate"], found["exact"]),
        "approximate_build_seconds": build,
        "approximate_settings": vars(tree.settings),
    }


def full_size():
    """The embeddings of the merged UnED test size."""
    centres = INDEX.value // 10
    return clustered(INDEX.value, centres, 1), clustered(QUERIES.value, centres, 2)


def arithmetic_limit():
    """Operations per second of matrix products alone: square, and in the search's shape."""
    rates = {}
    for name, (rows, columns, inner) in {
        "square_product_gflops": (4096, 4096, 4096),
        "search_shaped_product_gflops": (4096, 16_384, DIMENSION),
    }.items():
        a, b = np.ones((rows, inner), np.float32), np.ones((columns, inner), np.float32)
        out = np.empty((rows, columns), np.float32)
        seconds, _ = timed(lambda a=a, b=b, out=out: np.matmul(a, b.T, out=out), 7)
        rates[name] = 2 * rows * columns * inner / seconds / 1e9
    return rates


def exact():
    """Every query of the merged UnED test size, searched exactly, none left out."""
    index, queries = full_size()
    operations = 2 * len(index) * len(queries) * DIMENSION
    limits = arithmetic_limit()
    ours = BruteForce()
    ours.index(index[:1000])  # imports ScaNN
    before = psutil.Process().memory_info().rss
    build, _ = timed(lambda: ours.index(index))
    seconds, _ = timed(lambda: ours.query(queries, K, np.arange(len(queries)))[0])
    return {
        "queries": len(queries),
        "index": len(index),
        "build_seconds": build,
        "seconds": seconds,
        "gflops": operations / seconds / 1e9,
        **limits,
        "limit_seconds": operations / limits["square_product_gflops"] / 1e9,
        "embeddings_gb": (index.nbytes + queries.nbytes) / 1e9,
        "peak_gb": peak_memory() / 1e9,
        "peak_above_embeddings_gb": (peak_memory() - before) / 1e9,
    }


def approximate():
    """ScaNN and hnswlib at about equal recall, on the same sample of queries."""
    import hnswlib

    index, queries = full_size()
    queries = queries[: SAMPLE.value]
    ours, tree = BruteForce(), ScannTree(recall=0.99)
    ours.index(index)
    truth, _ = ours.query(queries, K)
    tree_build, _ = timed(lambda: tree.index(index))
    tree_seconds, found = timed(lambda: tree.query(queries, K)[0], 3)
    tree_recall = recall(found, truth)
    print(
        f"ScaNN: built in {tree_build:.1f} s, {tree_recall:.4f}, {tree_seconds:.2f} s", flush=True
    )
    graph = hnswlib.Index("ip", DIMENSION)
    graph.init_index(len(index), M=16, ef_construction=200)
    graph_build, _ = timed(lambda: graph.add_items(index, num_threads=os.cpu_count()))
    print(f"hnswlib: built in {graph_build:.1f} s", flush=True)
    points = []
    for ef in (10, 15, 20, 30, 45, 70, 100, 150, 250, 400, 700):
        graph.set_ef(ef)
        seconds, (ids, _) = timed(lambda: graph.knn_query(queries, K), 2)
        points.append({"ef": ef, "seconds": seconds, "recall_at_5": recall(ids, truth)})
        print(points[-1], flush=True)
        if points[-1]["recall_at_5"] >= tree_recall:
            break
    return {
        "queries": len(queries),
        "index": len(index),
        "scann": {
            "build_seconds": tree_build,
            "recall_at_5": tree_recall,
            "queries_per_second": len(queries) / tree_seconds,
            "settings": vars(tree.settings),
        },
        "hnswlib": {
            "build_seconds": graph_build,
            "recall_at_5": points[-1]["recall_at_5"],
            "queries_per_second": len(queries) / points[-1]["seconds"],
            "ef": points[-1]["ef"],
        },
        "build_speed_of_hnswlib": graph_build / tree_build,
        "query_speed_of_hnswlib": points[-1]["seconds"] / tree_seconds,
    }


def main(argv):
    del argv
    result = {"challenge": challenge, "exact": exact, "approximate": approximate}[PART.value]()
    versions = {}
    for name in ("numpy", "scann", "faiss-cpu", "hnswlib"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    result = {"part": PART.value, **result, "versions": versions}
    result["machine"] = f"{platform.machine()}, {os.cpu_count()} cores"
    result["date"] = datetime.date.today().isoformat()
    for key, value in result.items():
        print(f"{key:32} {value:.4f}" if isinstance(value, float) else f"{key:32} {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    app.run(main)
