"""The whole benchmark in a few slow lines, to compare with."""

import numpy as np


def rank(domains, merged):
    """`{domain: [(n, relevant: list of bool, best first), ...]}`, one entry per query."""
    result = {}
    for key, domain in domains.items():
        result[key] = []
        for i, query in enumerate(domain.query):
            candidates = []
            for index_key in sorted(domains) if merged else [key]:
                rows, labels = domains[index_key].index_embeddings
                for j, row in enumerate(rows):
                    if index_key == key and domain.index is None and i == j:
                        continue
                    shared = set(labels[j]) & set(domain.query_labels[i])
                    # equal scores: smaller domain key, labels, record number first
                    order = (-float(query @ row), index_key, tuple(labels[j]), j)
                    candidates.append((order, index_key == key and bool(shared)))
            relevant = [is_relevant for _, is_relevant in sorted(candidates)]
            result[key].append((sum(relevant), relevant))
    return result


def rank_arrays(queries, index, query_labels, index_labels, query_ids=None, index_ids=None):
    """`[(n, relevant: list of bool, best first), ...]` of arrays; index None: leave-one-out."""
    leave_one_out = index is None
    if leave_one_out:
        index, index_labels = queries, query_labels
        query_ids = index_ids = range(len(queries))
    entries = []
    for i, query in enumerate(queries):
        candidates = []
        for j, row in enumerate(index):
            if query_ids is not None and query_ids[i] == index_ids[j]:
                continue
            cosine = float(query @ row / np.sqrt(float(query @ query) * float(row @ row)))
            candidates.append((-cosine, index_labels[j], j, index_labels[j] == query_labels[i]))
        relevant = [bool(is_relevant) for *_, is_relevant in sorted(candidates)]
        entries.append((sum(relevant), relevant))
    return entries


def r_at(k, n, relevant):
    return float(any(relevant[:k]))


def mmp_at(k, n, relevant):
    return sum(relevant[: min(k, n)]) / min(k, n)


def map_at(k, n, relevant):
    hits = [sum(relevant[: i + 1]) / (i + 1) for i in range(min(k, len(relevant))) if relevant[i]]
    return sum(hits) / min(k, n)


METRICS = {
    "r_at_1": lambda n, relevant: r_at(1, n, relevant),
    "r_at_3": lambda n, relevant: r_at(3, n, relevant),
    "mmp_at_5": lambda n, relevant: mmp_at(5, n, relevant),
    "map_at_4": lambda n, relevant: map_at(4, n, relevant),
    "map_at_r": lambda n, relevant: map_at(n, n, relevant),
}


def mean(metric, entries):
    """Mean over the queries that have a relevant image; None if there are none."""
    values = [metric(n, relevant) for n, relevant in entries if n > 0]
    return np.mean(values) if values else None
