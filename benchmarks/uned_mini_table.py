"""The tables and the JSON line of the benchmarks on uned_mini."""

import json
import platform

METRICS = ("r_at_1", "mmp_at_5")


def line(results):
    """Mean and standard deviation over the seeds of a method's four numbers."""
    import numpy as np

    cells = []
    for protocol in ("merged", "separate"):
        for metric in METRICS:
            values = [scores[protocol]["mean"][metric] for _, scores in results]
            spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.4f}{spread}")
    return " | ".join(cells)


def report(domains, found, settings):
    """Prints the tables and the JSON."""
    import keras
    import numpy as np
    import tensorflow as tf

    print(
        "\n| | merged R@1 | merged mMP@5 | separate R@1 | separate mMP@5 |\n|---|---|---|---|---|"
    )
    for name, results in found.items():
        print(f"| {name} | {line(results)} |")
    print(f"\nmerged R@1\n\n| | {' | '.join(domains)} |\n|---|{'---|' * len(domains)}")
    numbers = {}
    for name, results in found.items():
        numbers[name] = {
            protocol: {
                key: {m: [scores[protocol][key][m] for _, scores in results] for m in METRICS}
                for key in (*domains, "mean")
            }
            for protocol in ("merged", "separate")
        }
        means = [np.mean(numbers[name]["merged"][d]["r_at_1"]) for d in domains]
        print(f"| {name} | {' | '.join(f'{mean:.3f}' for mean in means)} |")
    versions = {"tensorflow": tf.__version__, "keras": keras.__version__}
    versions["python"] = platform.python_version()
    print()
    print(json.dumps({"settings": settings, "results": numbers, "versions": versions}))
