"""Leaderboard of models on uned_mini, from the records of the benchmarks that trained them."""

import numpy as np
from figures import PROTOCOLS, format_score, table

README_ROWS = 5


def entries(records):
    """`(record name, model, record)` of every model, the best merged mMP@5 first.

    A record may name models that an earlier version trained otherwise as `outdated`: these are left
    out until they are trained again.
    """
    found = [
        (name, model, record)
        for name, record in records.items()
        if "results" in record
        for model in record["results"]
        if model not in record.get("outdated", ())
    ]
    return sorted(found, key=lambda entry: -mean_score(entry, "merged", "mmp_at_5"))


def mean_score(entry, protocol, metric):
    _, model, record = entry
    return np.mean(record["results"][model][protocol]["mean"][metric])


def row(rank, entry):
    name, model, record = entry
    mean = {protocol: record["results"][model][protocol]["mean"] for protocol in PROTOCOLS}
    scores = [format_score(mean["merged"][metric]) for metric in ("mmp_at_5", "r_at_1")]
    seeds = np.size(mean["merged"]["r_at_1"])
    minutes = record.get("minutes", {}).get(model)
    return [
        f"{rank}",
        model,
        name,
        *scores,
        format_score(mean["separate"]["mmp_at_5"]),
        f"{seeds}",
        f"{minutes:.1f}" if minutes is not None else "not recorded",
        record["machine"],
        record["date"],
        record.get("commit") or "not recorded",
        f"`{record['command']}`",
    ]


SCORES = ["merged mMP@5", "merged R@1", "separate mMP@5"]
HEADER = ["", "model", "benchmark", *SCORES, "seeds", "minutes", "machine", "date"]
HEADER += ["commit", "command"]


def leaderboard(records):
    """Every model."""
    return table(HEADER, [row(rank, entry) for rank, entry in enumerate(entries(records), 1)])


def readme_leaderboard(records):
    """The best few, without commit and command."""
    best = list(enumerate(entries(records), 1))[:README_ROWS]
    return table(HEADER[:-2], [row(rank, entry)[:-2] for rank, entry in best])


FIGURES = {"leaderboard": leaderboard, "readme-leaderboard": readme_leaderboard}
