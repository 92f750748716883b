"""Train an embedding: one config, one run directory.

  universal-embedding train --config=uned --workdir=runs/uned
  universal-embedding train --config=my/recipe.py:variant=UJCDS --config.data.batch_size=64 ...

--config takes the name of a packaged recipe or a file. Any field is set on the command line, as in
--config.stages[0].steps=100. Re-running the command resumes an interrupted run.
"""

import argparse
from pathlib import Path

from universal_embedding.commands.arguments import add_data_dir, add_switch
from universal_embedding.commands.config_flag import CONFIG_PREFIXES, read_config_flag
from universal_embedding.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `train`."""
    parser.add_argument(
        "--config", required=True, help="Recipe: NAME or FILE.py, then [:ARGUMENT]."
    )
    parser.add_argument("--workdir", required=True, help="Run directory: checkpoints and metrics.")
    add_data_dir(parser)
    parser.add_argument(
        "--strategy",
        default="one_device",
        choices=["one_device", "mirrored", "multi_worker"],
        help="Distribution strategy.",
    )
    parser.add_argument("--tpu", default="", help="`local`, or a TPU's name or address.")
    parser.add_argument(
        "--data_service",
        default="",
        help="tf.data service that makes the images: grpc://HOST:PORT.",
    )
    parser.add_argument("--init_from", help="Run directory whose model a new run starts from.")
    add_switch(parser, "deterministic", "Use deterministic ops, so runs are bit-reproducible.")
    parser.set_defaults(override_prefixes=CONFIG_PREFIXES)


def run(args: argparse.Namespace) -> None:
    """Trains to the end, or until a signal saves the state."""
    config = read_config_flag(args.config, args.unparsed)
    workdir = Path(args.workdir)
    if args.data_service and not args.data_service.startswith("grpc://"):
        raise UserError(
            f"--data_service={args.data_service} must be the address of a tf.data service's "
            "dispatcher: grpc://HOST:PORT"
        )

    from universal_embedding.training.strategy import make_strategy

    strategy = make_strategy("tpu" if args.tpu else args.strategy, args.tpu)
    if args.deterministic:
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()

    from universal_embedding.datasets.records import default_data_dir, open_records
    from universal_embedding.evaluation.embed import open_eval_sets
    from universal_embedding.evaluation.validation import Validation
    from universal_embedding.reporting.montage import draw_validation_examples
    from universal_embedding.training.experiment import Experiment
    from universal_embedding.training.hooks import default_hooks
    from universal_embedding.training.run_directory import write_config
    from universal_embedding.training.trainer import train

    data_dir, dataset = Path(args.data_dir or default_data_dir()), config.data.dataset
    evaluators = {}
    for name, options in config.evals.items():
        eval_sets = open_eval_sets(data_dir, dataset, options.split, config.data.domains)
        evaluators[name] = Validation(
            eval_sets,
            options.protocols,
            options.metrics,
            options.batch_size,
            options.num_examples,
            draw=draw_validation_examples,
        )
    domains = list(open_eval_sets(data_dir, dataset, "val", config.data.domains))
    records = {key: open_records(data_dir, dataset, key, "train") for key in domains}
    experiment = Experiment.from_config(config, records, workdir, strategy, args.data_service)
    summary = experiment.data_summary() | {"data_dir": str(data_dir.resolve())}
    write_config(workdir, config, summary)
    init_from = Path(args.init_from) if args.init_from else None
    if train(experiment, default_hooks(experiment, evaluators), init_from=init_from):
        print(f"trained: {workdir}\nnext: universal-embedding evaluate --model={workdir}")
