"""Markdown of UnED's table, from the record of `uned_table.py`."""

from figures import METRICS, PROTOCOLS, SCORE_TITLES, table, with_provenance


def uned_table(record):
    """Means over domains with their 95 % intervals, and each domain's merged R@1."""
    results = record["results"]
    means = [
        [name, *(format_entry(scores[p]["mean"], m) for p in PROTOCOLS for m in METRICS)]
        for name, scores in results.items()
    ]
    domains = [key for key in next(iter(results.values()))["merged"] if key != "mean"]
    by_domain = [
        [name, *(f"{scores['merged'][domain]['r_at_1']:.3f}" for domain in domains)]
        for name, scores in results.items()
    ]
    return "\n\n".join(
        (table(["", *SCORE_TITLES], means), "Merged R@1:", table(["", *domains], by_domain))
    )


def format_entry(entry, metric):
    """`0.744 [0.729, 0.759]`."""
    low, high = entry["ci95"][metric]
    return f"{entry[metric]:.4f} [{low:.3f}, {high:.3f}]"


FIGURES = {"uned_table": with_provenance("uned_table", uned_table)}
