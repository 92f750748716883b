"""Measures how well embeddings retrieve: R@1, mMP@5 and more, merged and separate, as a report.

python tools/evaluate.py --workdir=DIR [--data_dir=DIR] [--dataset=uned] [--split=test]

Whom: --workdir, --saved_model, --submission, --embeddings or --backbone, each as often as you
like; the first is what the others are compared with. --specialist=DOMAIN=WHAT, once for each
domain, adds the upper bound of one model for each domain.
"""

import functools
import sys
from pathlib import Path

from absl import flags

from universal_embedding import command
from universal_embedding.datasets.location import default_data_dir
from universal_embedding.errors import UserError

_FLAG = flags.DEFINE_string
DATA_DIR = _FLAG("data_dir", None, "Folder of the prepared data sets; the --workdir's by default.")
DATASET = _FLAG("dataset", None, "The data set in it, such as uned; the --workdir's by default.")
SPLIT = flags.DEFINE_enum("split", "test", ["val", "test"], "Whose queries.")
DOMAINS = flags.DEFINE_list("domains", [], "Only these domains; all prepared ones by default.")

WORKDIR = flags.DEFINE_multi_string("workdir", [], "Work directory that tools/train.py wrote.")
CHECKPOINT = flags.DEFINE_list(
    "checkpoint", ["best"], "Which of a work directory's: best, last, initial (before training)."
)
SAVED_MODEL = flags.DEFINE_multi_string("saved_model", [], "Directory of a SavedModel.")
SUBMISSION = flags.DEFINE_multi_string("submission", [], "Zip that tools/export.py wrote.")
EMBEDDINGS = flags.DEFINE_multi_string(
    "embeddings", [], "An .npz of embeddings made anywhere: domain, image_id, embedding."
)
BACKBONE = flags.DEFINE_multi_string(
    "backbone", [], "A bare backbone, no projection: what models.backbones.load_backbone takes."
)
SPECIALIST = flags.DEFINE_multi_string(
    "specialist", [], "DOMAIN=work directory, SavedModel, submission zip, .npz or backbone."
)
IMAGE_SIZE = flags.DEFINE_integer("image_size", 224, "Of --backbone, in pixels.", lower_bound=1)
ASPECT = flags.DEFINE_enum("aspect", "squash", ["squash", "crop", "pad"], "Of --backbone.")

PROTOCOLS = flags.DEFINE_list("protocols", ["merged", "separate"], "merged, separate.")
METRICS = flags.DEFINE_list(
    "metrics", ["r_at_1", "mmp_at_5"], "r_at_K, mmp_at_K, map_at_K (K = 1, 2, ...), map_at_r."
)
SEARCH = flags.DEFINE_enum("search", "exact", ["exact", "approximate"], "How to find neighbours.")
RECALL = flags.DEFINE_float("recall", 0.99, "Of --search=approximate: wished recall@5.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Pictures embedded at once.", lower_bound=1)
RESAMPLES = flags.DEFINE_integer("resamples", 1000, "Bootstrap samples; 0: no intervals.", 0)
EXAMPLES = flags.DEFINE_integer("examples", 8, "Failures shown of each domain; 0: no pictures.", 0)
OUTPUT = _FLAG("output", None, "Directory of the report; reports/DATASET-SPLIT by default.")


def main(argv: list[str]) -> None:
    del argv
    flags_of_sources = (WORKDIR, SAVED_MODEL, SUBMISSION, EMBEDDINGS, BACKBONE, SPECIALIST)
    if not any(flag.value for flag in flags_of_sources):
        raise UserError(
            "nothing to evaluate: give --workdir, --saved_model, --submission, --embeddings, "
            "--backbone or --specialist"
        )
    from universal_embedding.retrieval import approximate, assessment, page, report, sources
    from universal_embedding.retrieval.exact import exact

    search = exact
    if SEARCH.value == "approximate":
        approximate.ScannTree(RECALL.value)  # a wrong flag answers before pictures are read
        search = functools.partial(approximate.ScannTree, RECALL.value)
    options = assessment.Options(PROTOCOLS.value, METRICS.value, RESAMPLES.value, search)
    data_dir, dataset = _data()
    pairs = sources.open_pairs(data_dir, dataset, SPLIT.value, DOMAINS.value)
    assessed = [assessment.assess(source, pairs, options) for source in _sources()]
    if SPECIALIST.value:
        assessed.append(assessment.assess_specialists(_specialists(), pairs, options))
    numbers = {"dataset": dataset, "split": SPLIT.value}
    numbers |= assessment.numbers(assessed, options)
    given = flags.FLAGS.get_key_flags_for_module(sys.argv[0])
    numbers["arguments"] = {flag.name: flag.value for flag in given}
    print(report.text(numbers))
    folder = Path(OUTPUT.value or f"reports/{dataset}-{SPLIT.value}")
    written = report.write(numbers, folder)
    written.append(page.write(numbers, assessed, pairs, folder / "report.html", EXAMPLES.value))
    for path in written:
        print(f"wrote {path}")


def _sources() -> list:
    from universal_embedding.retrieval import sources

    opened = [_workdir(path, which) for path in WORKDIR.value for which in CHECKPOINT.value]
    opened += [_export(path) for path in [*SAVED_MODEL.value, *SUBMISSION.value]]
    opened += [sources.of_table(path) for path in EMBEDDINGS.value]
    opened += [_backbone(spec) for spec in BACKBONE.value]
    return sources.named_apart(opened)


def _specialists() -> dict:
    from universal_embedding.retrieval import sources

    opened = {}
    for flag in SPECIALIST.value:
        domain, _, what = flag.partition("=")
        if not what or domain in opened:
            raise UserError(f"--specialist={flag} is not DOMAIN=WHAT, once for each domain")
        if what.endswith(".npz"):
            opened[domain] = sources.of_table(what)
        elif what.endswith(".zip") or (Path(what) / "saved_model.pb").is_file():
            opened[domain] = _export(what)
        elif Path(what).is_dir():
            opened[domain] = _workdir(what, CHECKPOINT.value[0])
        else:
            opened[domain] = _backbone(what)
    return opened


def _data() -> tuple[str, str]:
    """Folder and name of the data set."""
    data_dir, dataset = DATA_DIR.value, DATASET.value
    if WORKDIR.value and not (data_dir and dataset):
        from universal_embedding.training.work_directory import read_run

        run = read_run(Path(WORKDIR.value[0]))
        data_dir = data_dir or run["data_dir"]
        dataset = dataset or run["config"]["data"]["dataset"]
    if not dataset:
        raise UserError("--dataset is missing: name a data set that tools/prepare.py has prepared")
    return data_dir or default_data_dir(), dataset


def _workdir(path: str, which: str) -> object:
    from universal_embedding.retrieval import sources
    from universal_embedding.training.checkpoints import load_embedder

    name = Path(path).resolve().name
    name = name if which == "best" else f"{name} ({which})"
    return sources.of_embedder(name, load_embedder(Path(path), which), BATCH_SIZE.value)


def _export(path: str) -> object:
    from universal_embedding.export.loading import load
    from universal_embedding.retrieval import sources

    return sources.of_files(Path(path).resolve().name, load(path), BATCH_SIZE.value)


def _backbone(spec: str) -> object:
    from universal_embedding.retrieval import sources

    return sources.of_backbone(spec, IMAGE_SIZE.value, ASPECT.value, BATCH_SIZE.value)


if __name__ == "__main__":
    command.run(main)
