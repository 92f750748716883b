"""Speed and recall of nearest-neighbor search, compared with faiss and hnswlib.

pip install 'universal-embedding[benchmarks]'              faiss and hnswlib, which is compiled
python benchmarks/retrieval.py --experiment=challenge    5,000 queries, 200,000 x 64 (two minutes)
python benchmarks/retrieval.py --experiment=exact        UnED's merged test size (6 minutes)
python benchmarks/retrieval.py --experiment=approximate  the same, ScaNN and hnswlib (11 minutes)

The embeddings are generated: unit rows around random centers, ten index images per center.
"""

import dataclasses
import os
import time
from pathlib import Path

import common
import numpy as np
import psutil
from absl import flags

from universal_embedding.search.exact import BruteForce
from universal_embedding.search.neighbors import recall
from universal_embedding.search.scann_index import ScannIndex

EXPERIMENT = flags.DEFINE_enum(
    "experiment", "challenge", ["challenge", "exact", "approximate"], "Which experiment to run."
)
NUM_QUERIES = flags.DEFINE_integer(
    "num_queries", 241_986, "exact, approximate: number of queries; by default UnED's.", 1
)
INDEX_SIZE = flags.DEFINE_integer(
    "index_size", 1_397_126, "exact, approximate: number of index images; by default UnED's.", 1
)
SAMPLE_SIZE = flags.DEFINE_integer(
    "sample_size", 20_000, "approximate: number of queries that are measured.", 1
)
DIM, K = 64, 5
NUM_ROUNDS = 7  # of searches that alternate
MAX_EF = 2000


def clustered_rows(num_rows: int, num_centers: int, seed: int) -> np.ndarray:
    """`[num_rows, 64]` float32 unit rows; the centers do not depend on the seed."""
    centers = np.random.default_rng(0).standard_normal((num_centers, DIM), np.float32)
    rng = np.random.default_rng(seed)
    rows = centers[rng.integers(0, num_centers, num_rows)]
    rows += np.float32(0.6) * rng.standard_normal((num_rows, DIM), np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def time_call(call, repeats=1):
    """Seconds of the fastest of `repeats` calls, and the result of the last."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = call()
        times.append(time.perf_counter() - start)
    return min(times), result


def peak_memory():
    """Peak resident size of this process so far, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def run_challenge():
    """5,000 queries in 200,000: faiss, exact and approximate search alternate."""
    import faiss

    index, queries = clustered_rows(200_000, 20_000, 1), clustered_rows(5_000, 20_000, 2)
    flat = faiss.IndexFlatIP(DIM)
    flat.add(index)
    exact, approximate = BruteForce(), ScannIndex(target_recall=0.9999)
    exact.index(index)
    build_seconds, _ = time_call(lambda: approximate.index(index))
    searches = {
        "faiss": lambda: flat.search(queries, K)[1],
        "exact": lambda: exact.query(queries, K)[0],
        "approximate": lambda: approximate.query(queries, K)[0],
    }
    times = {name: [] for name in searches}
    neighbors = {name: search() for name, search in searches.items()}  # warms up
    for _ in range(9):
        for name, search in searches.items():
            times[name].append(time_call(search)[0])
    exact_speedups = np.divide(times["faiss"], times["exact"])
    approximate_speedups = np.divide(times["exact"], times["approximate"])
    return {
        "seconds": {name: float(np.median(values)) for name, values in times.items()},
        "exact_speedup_over_faiss": float(np.median(exact_speedups)),
        "exact_same_neighbors_as_faiss": float((neighbors["exact"] == neighbors["faiss"]).mean()),
        "approximate_speedup_over_exact": float(np.median(approximate_speedups)),
        "approximate_recall_at_5": recall(neighbors["approximate"], neighbors["exact"]),
        "approximate_build_seconds": build_seconds,
        "approximate_config": dataclasses.asdict(approximate.config),
        "hnswlib": compare_with_hnswlib(index, queries, target_recall=0.99),
    }


def full_size_embeddings():
    """Index and queries of UnED's merged test size."""
    num_centers = INDEX_SIZE.value // 10
    index = clustered_rows(INDEX_SIZE.value, num_centers, 1)
    return index, clustered_rows(NUM_QUERIES.value, num_centers, 2)


def arithmetic_limits():
    """GFLOP/s of matrix products alone: square, and in the shape of the search."""
    rates = {}
    for name, (rows, columns, inner) in {
        "square_product_gflops": (4096, 4096, 4096),
        "search_shaped_product_gflops": (4096, 16_384, DIM),
    }.items():
        a, b = np.ones((rows, inner), np.float32), np.ones((columns, inner), np.float32)
        out = np.empty((rows, columns), np.float32)
        seconds, _ = time_call(lambda a=a, b=b, out=out: np.matmul(a, b.T, out=out), 7)
        rates[name] = 2 * rows * columns * inner / seconds / 1e9
    return rates


def run_exact():
    """Exact search of every query of UnED's merged test size."""
    index, queries = full_size_embeddings()
    operations = 2 * len(index) * len(queries) * DIM
    limits = arithmetic_limits()
    exact = BruteForce()
    exact.index(index[:1000])  # imports ScaNN
    memory_before = psutil.Process().memory_info().rss
    build_seconds, _ = time_call(lambda: exact.index(index))
    seconds, _ = time_call(lambda: exact.query(queries, K, np.arange(len(queries)))[0])
    return {
        "num_queries": len(queries),
        "index_size": len(index),
        "build_seconds": build_seconds,
        "seconds": seconds,
        "gflops": operations / seconds / 1e9,
        **limits,
        "limit_seconds": operations / limits["square_product_gflops"] / 1e9,
        "embeddings_gb": (index.nbytes + queries.nbytes) / 1e9,
        "peak_gb": peak_memory() / 1e9,
        "peak_above_embeddings_gb": (peak_memory() - memory_before) / 1e9,
    }


def run_approximate():
    """ScaNN and hnswlib at equal recall, on the same sample of queries."""
    index, queries = full_size_embeddings()
    return compare_with_hnswlib(index, queries[: SAMPLE_SIZE.value], target_recall=0.99)


def compare_with_hnswlib(index, queries, target_recall):
    """ScaNN tuned to a recall, and hnswlib with the smallest `ef` that has as much; alternating."""
    import hnswlib

    exact, scann = BruteForce(), ScannIndex(target_recall)
    exact.index(index)
    truth, _ = exact.query(queries, K)
    scann_build_seconds, _ = time_call(lambda: scann.index(index))
    scann_recall = recall(scann.query(queries, K)[0], truth)
    print(
        f"ScaNN: built in {scann_build_seconds:.1f} s, recall@5 {scann_recall:.4f}, {scann.config}",
        flush=True,
    )
    graph = hnswlib.Index("ip", DIM)
    graph.init_index(len(index), M=16, ef_construction=200)
    graph_build_seconds, _ = time_call(lambda: graph.add_items(index, num_threads=os.cpu_count()))
    print(f"hnswlib: built in {graph_build_seconds:.1f} s", flush=True)

    def graph_recall(ef):
        graph.set_ef(ef)
        return recall(graph.knn_query(queries, K)[0], truth)

    low, high = K, MAX_EF
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if graph_recall(middle) >= scann_recall else (middle + 1, high)
    searches = {
        "scann": lambda: scann.query(queries, K),
        "hnswlib": lambda: graph.knn_query(queries, K),
    }
    equal_recall = graph_recall(low)
    print(f"hnswlib: ef {low}, recall@5 {equal_recall:.4f}", flush=True)
    times = {name: [] for name in searches}
    for _ in range(NUM_ROUNDS):
        for name, search in searches.items():
            times[name].append(time_call(search)[0])
    seconds = {name: float(np.median(values)) for name, values in times.items()}
    return {
        "num_queries": len(queries),
        "index_size": len(index),
        "scann": {
            "build_seconds": scann_build_seconds,
            "recall_at_5": scann_recall,
            "queries_per_second": len(queries) / seconds["scann"],
            "config": dataclasses.asdict(scann.config),
        },
        "hnswlib": {
            "build_seconds": graph_build_seconds,
            "recall_at_5": equal_recall,
            "queries_per_second": len(queries) / seconds["hnswlib"],
            "ef": low,
            "points": [{"ef": low, "seconds": seconds["hnswlib"], "recall_at_5": equal_recall}],
        },
        "build_speedup_over_hnswlib": graph_build_seconds / scann_build_seconds,
        "query_speedup_over_hnswlib": float(np.median(np.divide(times["hnswlib"], times["scann"]))),
    }


EXPERIMENTS = {"challenge": run_challenge, "exact": run_exact, "approximate": run_approximate}


def main():
    result = {"experiment": EXPERIMENT.value, **EXPERIMENTS[EXPERIMENT.value]()}
    for key, value in result.items():
        print(f"{key:32} {value:.4f}" if isinstance(value, float) else f"{key:32} {value}")
    common.print_json(result, ("numpy", "scann", "faiss-cpu", "hnswlib"))


if __name__ == "__main__":
    common.run(main, needs_idle=True)
