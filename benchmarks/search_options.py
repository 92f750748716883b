"""Options of a search, measured on uned_mini: score correction, thresholds, smaller rows.

    universal-embedding prepare --manual_dir=PATH/TO/uned_mini
    python benchmarks/search_options.py --model=PATH/TO/efficientnet_lite0.keras --model=runs/linear

A model is a run directory or a backbone. Its embeddings of the training images are the bank of the
score correction and of the queries' normalization. The threshold accepts or rejects the nearest
image of each test query in the merged index. Recall at 90 % precision is the fraction of the
queries with a positive that are accepted and right, at the threshold that accepts most while 90 %
of the accepted ones are right.
"""

from pathlib import Path

import common
import numpy as np
from absl import flags

from universal_embedding.datasets.records import default_data_dir, open_records
from universal_embedding.evaluation.embed import (
    embed_eval_sets,
    from_backbone,
    from_model,
    open_eval_sets,
)
from universal_embedding.evaluation.embeddings import correct_scores, normalize_rows
from universal_embedding.evaluation.evaluate import evaluate_domains
from universal_embedding.evaluation.protocol import run_protocol
from universal_embedding.export.pretrained import is_run_directory, locate_model
from universal_embedding.search.exact import exact_search
from universal_embedding.search.index_rows import DTYPES
from universal_embedding.search.score_correction import bank_similarity
from universal_embedding.training.checkpoints import load_embedding_model

MODEL = flags.DEFINE_multi_string("model", None, "A run directory or a backbone.", required=True)
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "Checkpoint of run directories.")
DATA_DIR = flags.DEFINE_string("data_dir", default_data_dir(), "Directory of prepared datasets.")
DATASET = flags.DEFINE_string("dataset", "uned_mini", "A prepared dataset.")
PRECISION = 0.9
BATCH_SIZE, IMAGE_SIZE = 64, 224


def open_model(name):
    path = locate_model(name)
    if is_run_directory(path):
        return from_model(name, load_embedding_model(path, CHECKPOINT.value), BATCH_SIZE)
    return from_backbone(name, IMAGE_SIZE, "squash", BATCH_SIZE)


def merged_scores(domains, dtype="float32"):
    """R@1 and mMP@5, means over domains, in the merged index."""

    def make_search():
        search = exact_search()
        search.dtype = dtype
        return search

    mean = evaluate_domains(domains, ["merged"], search=make_search)["merged"]["mean"]
    return {"r_at_1": mean["r_at_1"], "mmp_at_5": mean["mmp_at_5"]}


def recall_at_precision(scores, is_right, num_positive):
    """The largest recall of accepting the first neighbors above a threshold; see above."""
    order = np.argsort(-scores, kind="stable")
    num_right = np.cumsum(is_right[order])
    is_last = np.append(np.diff(scores[order]) < 0, True)  # of several with the same score
    precise = is_last & (num_right >= PRECISION * np.arange(1, len(order) + 1))
    return float(num_right[precise].max(initial=0) / num_positive)


def threshold_scores(domains, bank):
    """Recall at 90 % precision by the similarity, and by the similarity less that to the bank."""
    similarities, normalized, is_right = [], [], []
    num_positive = 0
    for key, result in run_protocol(domains, "merged", max_neighbors=1).domains.items():
        similarities.append(result.similarities[:, 0])
        normalized.append(similarities[-1] - bank_similarity(domains[key].query, bank))
        is_right.append(result.relevant[:, 0])
        num_positive += int((result.num_positives > 0).sum())
    right = np.concatenate(is_right)
    return {
        "recall_at_90_precision": recall_at_precision(
            np.concatenate(similarities), right, num_positive
        ),
        "recall_at_90_precision_normalized": recall_at_precision(
            np.concatenate(normalized), right, num_positive
        ),
        "recall_at_any_precision": float(right.sum() / num_positive),
    }


def megabytes_per_million(rows, dtype):
    """Memory of a million rows of this kind in an index, without its codes."""
    search = exact_search()
    search.dtype = dtype
    search.index(rows[:1000])
    return search.rows_nbytes / len(search)


def measure(name):
    source = open_model(name)
    eval_sets = open_eval_sets(DATA_DIR.value, DATASET.value, "test")
    domains = embed_eval_sets(source, eval_sets)
    bank = np.concatenate(
        [
            normalize_rows(source.embed(open_records(DATA_DIR.value, DATASET.value, key, "train")))
            for key in eval_sets
        ]
    )
    some_rows = next(iter(domains.values())).query
    return {
        "model": Path(name).name,
        "embedding_dim": bank.shape[1],
        "bank_images": len(bank),
        "as_is": merged_scores(domains),
        "score_correction": merged_scores(correct_scores(domains, bank)),
        "threshold": threshold_scores(domains, bank),
        "rows": {
            dtype: {
                **merged_scores(domains, dtype),
                "mb_per_million_rows": megabytes_per_million(some_rows, dtype),
            }
            for dtype in DTYPES
        },
    }


def main():
    results = []
    for name in MODEL.value:
        results.append(measure(name))
        print(results[-1], flush=True)
    common.print_json({"results": results}, ("numpy", "tensorflow", "keras", "scann"))


if __name__ == "__main__":
    common.run(main)
