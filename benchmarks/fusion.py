"""Linear layers over one, two and three frozen backbones side by side, on uned_mini.

    universal-embedding prepare --manual_dir=PATH/TO/uned_mini
    python benchmarks/fusion.py --backbones=PATH/TO/a.keras,PATH/TO/b.keras,PATH/TO/c.keras

Rows: the recipe `linear_probe` over each backbone, `fusion` over the first two and over all, and
`fusion:prefixes`, whose prefixes are scored too. Each run keeps its best checkpoint by validation
(merged R@1) and is scored on the test split. Features of each backbone are computed once, into
--workdir; what an earlier start finished is read from there.
"""

from pathlib import Path

import common
import numpy as np
from absl import flags
from uned_runs import Runner

from universal_embedding.commands.config_flag import read_config_flag
from universal_embedding.datasets.records import default_data_dir
from universal_embedding.errors import UserError
from universal_embedding.evaluation.embed import embed_eval_sets
from universal_embedding.evaluation.evaluate import evaluate_domains
from universal_embedding.evaluation.prefixes import add_prefixes
from universal_embedding.models.backbones.fusion import split_size
from universal_embedding.reporting.tables import markdown_table

DATA_DIR = flags.DEFINE_string("data_dir", default_data_dir(), "Directory of prepared datasets.")
WORKDIR = flags.DEFINE_string("workdir", "runs/fusion_benchmark", "Directory of runs and features.")
BACKBONES = flags.DEFINE_list(
    "backbones",
    None,
    "Backbones: .keras files, each may end in @ and its image size where they are joined.",
    required=True,
)
NUM_SEEDS = flags.DEFINE_integer("num_seeds", 3, "Runs of each row, with seeds 0, 1, ...", 1)
ROWS = flags.DEFINE_list("rows", [], "Rows to run; by default all.")

DATASET, PREFIXES = "uned_mini", (8, 16, 32)
METRICS, PROTOCOLS = ("r_at_1", "mmp_at_5"), ("merged", "separate")


class FusionRunner(Runner):
    """Trains and scores one row, with one seed."""

    def __init__(self, name, argument, seed):
        self.argument, self.seed = argument, seed
        folder = Path(WORKDIR.value)
        # Joined backbones have folders of their own within that of the features.
        features = folder / "features" / ("joined" if "+" in argument else name)
        super().__init__(DATA_DIR.value, DATASET, folder / f"seed{seed}", features, validates=True)

    def make_config(self, name):
        config = read_config_flag(self.argument)
        config.seed = self.seed
        return config

    def run_prefixes(self, name):
        """Scores of each prefix of a row's model, by the number of dimensions."""
        sources = add_prefixes(self.source(name, self.make_config(name)), PREFIXES)[1:]

        def compute(source):
            return {
                s: evaluate_domains(embed_eval_sets(source, e), PROTOCOLS)
                for s, e in self.eval_sets.items()
            }

        return {
            f"{name}, {dim} dimensions": self.scores(f"{name}/{dim}", lambda s=s: compute(s), {})
            for dim, s in zip(PREFIXES, sources, strict=True)
        }


def make_rows():
    """The argument of --config by row."""
    paths = BACKBONES.value
    stems = [Path(split_size(path)[0]).stem for path in paths]
    if len(set(stems)) < len(stems) or len(stems) < 2:
        raise UserError(f"--backbones={','.join(paths)}: give two or more, all of different names")
    rows = {
        stem: f"linear_probe:backbone={split_size(path)[0]}"
        for stem, path in zip(stems, paths, strict=True)
    }
    for count in range(2, len(paths) + 1):
        rows["+".join(stems[:count])] = f"fusion:backbone={'+'.join(paths[:count])}"
    rows[f"prefixes of {'+'.join(stems)}"] = f"fusion:prefixes,backbone={'+'.join(paths)}"
    unknown = set(ROWS.value) - set(rows)
    if unknown:
        raise UserError(f"--rows={','.join(sorted(unknown))}; there are {', '.join(rows)}")
    return {name: argument for name, argument in rows.items() if name in (ROWS.value or rows)}


def run_row(name, argument):
    """`{row: [scores by split, of each seed]}` of a row, and of its prefixes."""
    results = {}
    for seed in range(NUM_SEEDS.value):
        runner = FusionRunner(name, argument, seed)
        scores = {name: runner.run_row(name)}
        if ":prefixes" in argument:
            scores |= runner.run_prefixes(name)
        for row, values in scores.items():
            results.setdefault(row, []).append(values)
    return results


def format_cells(results, split, protocol):
    """Mean and standard deviation over the seeds of both metrics."""
    cells = []
    for metric in METRICS:
        values = [scores[split][protocol]["mean"][metric] for scores in results]
        deviation = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
        cells.append(f"{np.mean(values):.4f}{deviation}")
    return cells


def main():
    rows, results = make_rows(), {}
    for name, argument in rows.items():
        results |= run_row(name, argument)
    titles = ["", *(f"{p} {m}" for p in PROTOCOLS for m in ("R@1", "mMP@5")), "validation R@1"]
    table = [
        [
            name,
            *(cell for p in PROTOCOLS for cell in format_cells(scores, "test", p)),
            format_cells(scores, "val", "merged")[0],
        ]
        for name, scores in results.items()
    ]
    domains = [d for d in next(iter(results.values()))[0]["test"]["merged"] if d != "mean"]
    by_domain = [
        [
            name,
            *(
                "/".join(
                    f"{np.mean([s['test']['merged'][d][m] for s in scores]):.3f}" for m in METRICS
                )
                for d in domains
            ),
        ]
        for name, scores in results.items()
    ]
    print(f"\n{markdown_table([titles, *table])}\n\nmerged R@1/mMP@5\n")
    print(f"{markdown_table([['', *domains], *by_domain])}\n")
    kept = {
        name: {
            split: {
                protocol: {
                    key: {m: [s[split][protocol][key][m] for s in scores] for m in METRICS}
                    for key in (*domains, "mean")
                }
                for protocol in PROTOCOLS
            }
            for split in ("val", "test")
        }
        for name, scores in results.items()
    }
    common.print_json({"settings": rows, "results": kept}, ("tensorflow", "keras"))


if __name__ == "__main__":
    common.run(main, needs_idle=False)
