"""The whole benchmark in a few slow lines, to compare with."""

import numpy as np


def evaluate(domains, merged):
    """`{domain: [(n, relevant: list of bool, best first), ...]}`, one entry a query."""
    result = {}
    for key, domain in domains.items():
        result[key] = []
        for i, query in enumerate(domain.query):
            others = []
            for other in sorted(domains) if merged else [key]:
                rows, labels = domains[other].searched
                for j, row in enumerate(rows):
                    if other == key and domain.index is None and i == j:
                        continue
                    shared = set(labels[j]) & set(domain.query_labels[i])
                    # equal scores: smaller domain key, labels, record number first
                    place = (-float(query @ row), other, tuple(labels[j]), j)
                    others.append((place, other == key and bool(shared)))
            relevant = [right for _, right in sorted(others)]
            result[key].append((sum(relevant), relevant))
    return result


def r_at(k, n, relevant):
    return float(any(relevant[:k]))


def mmp_at(k, n, relevant):
    return sum(relevant[: min(k, n)]) / min(k, n)


def map_at(k, n, relevant):
    hits = [sum(relevant[: i + 1]) / (i + 1) for i in range(min(k, len(relevant))) if relevant[i]]
    return sum(hits) / min(k, n)


def mean(metric, entries):
    return np.mean([metric(n, relevant) for n, relevant in entries if n > 0])
