"""Measure retrieval of one or more models, merged and separate, and write a report.

  universal-embedding evaluate --model=runs/uned [--model=OTHER ...] [--split=test]

A model is a run directory, a SavedModel, a submission zip, an .npz of embeddings or a backbone
(file, preset or application name). The first --model is the baseline that the others are compared
with. --specialist=DOMAIN=MODEL, once per domain, adds the oracle-routed specialists. --compatible,
with models from old to new, also searches the queries of each in the index of every older one.
The prefixes that a run trained (config.head.prefixes), or those of --dimension=8,16, are evaluated
too. --transform=none,center,pca,whiten evaluates the embeddings of each --model as they are and
after maps fitted on the training images. --embeddings evaluates what `embed` wrote of the domains.
"""

import argparse
import contextlib
import functools
from pathlib import Path
from typing import TYPE_CHECKING

from universal_embedding.commands.arguments import (
    add_data_flags,
    add_strategy_flags,
    add_switch,
    comma_list,
    float_between,
    int_at_least,
)
from universal_embedding.errors import UserError

if TYPE_CHECKING:
    import tensorflow as tf

    from universal_embedding.evaluation.embed import EmbeddingSource


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `evaluate`."""
    add = parser.add_argument
    add(
        "--model",
        action="append",
        default=[],
        help="A run directory, SavedModel, submission zip, .npz of embeddings, or backbone.",
    )
    embeddings_help = "Directory of embeddings that `embed` wrote of the prepared domains."
    add("--embeddings", action="append", default=[], help=embeddings_help)
    add(
        "--checkpoint",
        type=comma_list,
        default=["best"],
        help="Checkpoints of run directories: best, last, initial (before training).",
    )
    add("--specialist", action="append", default=[], help="DOMAIN=MODEL, once per domain.")
    compatible_help = "Models, from old to new: also search new queries in old indexes."
    add("--compatible", nargs="+", default=[], metavar="MODEL", help=compatible_help)
    add_data_flags(parser)
    add("--split", default="test", choices=["val", "test"], help="Split to evaluate.")
    size_help = "Input size for --model=BACKBONE, in pixels."
    add("--image_size", type=int_at_least(1), default=224, help=size_help)
    add(
        "--resize_mode",
        default="squash",
        choices=["squash", "crop", "pad"],
        help="How --model=BACKBONE gets its square input.",
    )
    add("--protocols", type=comma_list, default=["merged", "separate"], help="merged, separate.")
    add(
        "--metrics",
        type=comma_list,
        default=["r_at_1", "mmp_at_5"],
        help="r_at_K, mmp_at_K, map_at_K (K = 1, 2, ...), map_at_r.",
    )
    add("--search", default="exact", choices=["exact", "approximate"], help="Neighbor search.")
    recall_help = "Recall@5 that approximate search is tuned to reach."
    add("--target_recall", type=float_between(0.0, 1.0), default=0.99, help=recall_help)
    dimension_help = "Prefixes of the embeddings to evaluate too, such as 8,16,32."
    add("--dimension", type=comma_list, default=[], help=dimension_help)
    transform_help = (
        "none, center, pca, whiten: maps of the embeddings, fitted on training images; one result "
        "for each."
    )
    add("--transform", type=comma_list, default=["none"], help=transform_help)
    dim_help = "Dimensions that --transform=pca or whiten keeps."
    add("--embedding_dim", type=int_at_least(1), default=64, help=dim_help)
    add_switch(
        parser,
        "score_correction",
        "Lower the scores of index images that resemble many training images.",
    )
    batch_help = "Images per batch and device."
    add("--batch_size", type=int_at_least(1), default=64, help=batch_help)
    add_strategy_flags(parser)
    add(
        "--bootstrap_samples",
        type=int_at_least(0),
        default=1000,
        help="Bootstrap samples for the 95 %% intervals; 0: no intervals.",
    )
    examples_help = "Failure cases shown per domain (0: none)."
    add("--num_examples", type=int_at_least(0), default=8, help=examples_help)
    add("--output", help="Directory of the report; reports/DATASET-SPLIT by default.")


def run(args: argparse.Namespace) -> None:
    """Evaluates every model and writes report.json, report.md and report.html."""
    if not (args.model or args.embeddings or args.specialist or args.compatible):
        raise UserError(
            "nothing to evaluate: give --model, --embeddings, --specialist or --compatible"
        )
    if args.compatible and len(args.checkpoint) > 1:
        raise UserError("--compatible compares one checkpoint per run: give one --checkpoint")
    args.model = args.compatible + args.model
    if args.tpu or args.strategy != "one_device":
        from universal_embedding.training.recovery import restart_when_lost
        from universal_embedding.training.strategy import make_strategy

        with restart_when_lost(lambda: 0):
            name = "tpu" if args.tpu else args.strategy
            _evaluate(args, make_strategy(name, args.tpu, args.allow_unproven_slice))
    else:
        _evaluate(args, None)


def _evaluate(args: argparse.Namespace, strategy: "tf.distribute.Strategy | None") -> None:
    from universal_embedding.app.stored_embeddings import stored_source
    from universal_embedding.datasets.records import open_records
    from universal_embedding.evaluation import compatibility, embed, evaluate, transforms
    from universal_embedding.evaluation.prefixes import add_prefixes
    from universal_embedding.files import as_path, check_writable
    from universal_embedding.reporting import html, tables
    from universal_embedding.search.exact import exact_search
    from universal_embedding.search.scann_index import ScannIndex

    search = exact_search
    if args.search == "approximate":
        ScannIndex(args.target_recall)  # a wrong flag fails before images are read
        search = functools.partial(ScannIndex, args.target_recall)
    if args.score_correction and args.specialist:
        raise UserError("--score_correction is for --model, not for --specialist: leave one out")
    if args.transform != ["none"] and (args.specialist or args.compatible):
        raise UserError(
            "--transform is for --model, not for --specialist or --compatible: leave one out"
        )
    if args.dimension and (args.specialist or args.compatible):
        raise UserError(
            "--dimension is for --model, not for --specialist or --compatible: leave one out"
        )
    data_dir, dataset = _find_data(args)
    eval_sets = embed.open_eval_sets(data_dir, dataset, args.split, args.domains)
    train_records = []
    if args.score_correction or args.transform != ["none"]:
        train_records = [open_records(data_dir, dataset, key, "train") for key in eval_sets]
    bank = train_records if args.score_correction else []
    config = evaluate.EvaluationConfig(
        args.protocols, args.metrics, args.bootstrap_samples, search, bank
    )
    folder = as_path(args.output or f"reports/{dataset}-{args.split}")
    check_writable(folder / "report.json", "--output")
    sources = [
        prefix
        for model in args.model
        for source in _open_sources(model, args, strategy)
        for prefix in add_prefixes(source, _prefixes(model, args))
    ]
    sources = embed.dedupe_names([*sources, *map(stored_source, args.embeddings)])
    results = [
        result
        for source in sources
        for result in transforms.evaluate_transforms(
            source, eval_sets, config, train_records, args.transform, args.embedding_dim
        )
    ]
    if args.specialist:
        specialists = _open_specialists(args, strategy)
        results.append(evaluate.evaluate_specialists(specialists, eval_sets, config))
    if strategy is not None and not _is_chief(strategy):
        return
    report = {"dataset": dataset, "split": args.split}
    report |= evaluate.make_report(results, config)
    if args.compatible:
        compatible = results[: len(args.compatible)]
        measured = compatibility.evaluate_compatibility(compatible, config)
        report["compatibility"] = compatibility.compatibility_report(measured, config)
    report["arguments"] = {
        name: value
        for name, value in vars(args).items()
        if isinstance(value, str | int | float | list | None) and name != "unparsed"
    }
    print(tables.format_report_text(report))
    written = tables.write_report(report, folder)
    page = folder / "report.html"
    written.append(html.write_html_report(report, results, eval_sets, page, args.num_examples))
    for path in written:
        print(f"wrote {path}")


def _prefixes(model: str, args: argparse.Namespace) -> list[int]:
    """The prefixes to evaluate of one --model: those of the flag, else those that it trained."""
    from universal_embedding.evaluation.prefixes import trained_prefixes
    from universal_embedding.export.pretrained import is_run_directory, locate_model

    try:
        dimensions = [int(text) for text in args.dimension]
    except ValueError:
        raise UserError(
            f"--dimension={','.join(args.dimension)} must be whole numbers, such as 8,16,32"
        ) from None
    path = locate_model(model)
    if dimensions or args.compatible or not is_run_directory(path):
        return dimensions
    return trained_prefixes(path)


def _is_chief(strategy: "tf.distribute.Strategy") -> bool:
    from universal_embedding.models.distribution import num_hosts_and_id

    return num_hosts_and_id(strategy)[1] == 0


def _open_sources(
    model: str, args: argparse.Namespace, strategy: "tf.distribute.Strategy | None"
) -> list["EmbeddingSource"]:
    """The sources that one --model names: one, or one for each checkpoint of a run."""
    from universal_embedding.evaluation import embed
    from universal_embedding.export.pretrained import is_run_directory, locate_model

    path = locate_model(model)
    if is_run_directory(path):
        return [_open_run(path, which, args.batch_size, strategy) for which in args.checkpoint]
    if path.suffix == ".npz":
        return [embed.from_npz(path)]
    if path.suffix == ".zip" or (path / "saved_model.pb").is_file():
        if strategy is not None:
            raise UserError(
                f"{model} is a SavedModel, which runs on one device; evaluate its run directory, "
                "or leave out --strategy and --tpu"
            )
        from universal_embedding.export.embedder import Embedder

        embedder = Embedder.from_pretrained(path)
        return [embed.from_encoder(path.resolve().name, embedder.encode, args.batch_size)]
    if path.is_dir() and not any(path.glob("*.json")):
        raise UserError(
            f"--model={model} is a directory that holds no run (config.json), no SavedModel "
            "(saved_model.pb) and no preset"
        )
    size, resize_mode = args.image_size, args.resize_mode
    return [embed.from_backbone(model, size, resize_mode, args.batch_size, strategy)]


def _open_run(
    path: Path, checkpoint: str, batch_size: int, strategy: "tf.distribute.Strategy | None"
) -> "EmbeddingSource":
    from universal_embedding.evaluation import embed
    from universal_embedding.training.checkpoints import load_embedding_model

    name = path.resolve().name
    name = name if checkpoint == "best" else f"{name} ({checkpoint})"
    with strategy.scope() if strategy is not None else contextlib.nullcontext():
        model = load_embedding_model(path, checkpoint)
    return embed.from_model(name, model, batch_size, strategy)


def _open_specialists(
    args: argparse.Namespace, strategy: "tf.distribute.Strategy | None"
) -> dict[str, "EmbeddingSource"]:
    specialists: dict[str, EmbeddingSource] = {}
    for flag in args.specialist:
        domain, _, model = flag.partition("=")
        if not model or domain in specialists:
            raise UserError(f"--specialist={flag} is not DOMAIN=MODEL, once per domain")
        specialists[domain] = _open_sources(model, args, strategy)[0]
    return specialists


def _find_data(args: argparse.Namespace) -> tuple[str, str]:
    """Directory and name of the dataset: the flags, or those that the first run trained on."""
    from universal_embedding.datasets.records import default_data_dir
    from universal_embedding.export.pretrained import is_run_directory, locate_model

    data_dir, dataset = args.data_dir, args.dataset
    runs = [path for path in map(locate_model, args.model) if is_run_directory(path)]
    if runs and not (data_dir and dataset):
        from universal_embedding.training.run_directory import read_config

        run = read_config(runs[0])
        data_dir = data_dir or run["data_dir"]
        dataset = dataset or run["config"]["data"]["dataset"]
    if not dataset:
        raise UserError("--dataset is missing: name a dataset that `prepare` has prepared")
    return data_dir or default_data_dir(), dataset
