"""Tables and JSON line of the benchmarks on uned_mini.

A model's results are `(validation score, scores)` by seed; the scores are those that
`evaluate_domains` returns on the test split.
"""

import common
import numpy as np

METRICS = ("r_at_1", "mmp_at_5")
PROTOCOLS = ("merged", "separate")


def format_scores(results):
    """One table row: mean and standard deviation over the seeds of the four mean scores."""
    cells = []
    for protocol in PROTOCOLS:
        for metric in METRICS:
            values = [scores[protocol]["mean"][metric] for _, scores in results]
            deviation = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.4f}{deviation}")
    return " | ".join(cells)


def print_report(domains, results_by_model, settings, **extra):
    """Prints the tables and the JSON line.

    Args:
        domains: Domain keys.
        results_by_model: Results of each seed by name of the model.
        settings: Arguments of the recipe by name of the model.
        **extra: Further entries of the JSON line.
    """
    header = "| | merged R@1 | merged mMP@5 | separate R@1 | separate mMP@5 |"
    print(f"\n{header}\n|---|---|---|---|---|")
    for name, results in results_by_model.items():
        print(f"| {name} | {format_scores(results)} |")
    print(f"\nmerged R@1\n\n| | {' | '.join(domains)} |\n|---|{'---|' * len(domains)}")
    scores_by_model = {}
    for name, results in results_by_model.items():
        scores_by_model[name] = {
            protocol: {
                key: {m: [scores[protocol][key][m] for _, scores in results] for m in METRICS}
                for key in (*domains, "mean")
            }
            for protocol in PROTOCOLS
        }
        means = [np.mean(scores_by_model[name]["merged"][d]["r_at_1"]) for d in domains]
        print(f"| {name} | {' | '.join(f'{mean:.3f}' for mean in means)} |")
    print()
    common.print_json(
        {"settings": settings, "results": scores_by_model, **extra}, ("tensorflow", "keras")
    )
