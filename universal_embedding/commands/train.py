"""Train an embedding: one config, one run directory.

  universal-embedding train --config=uned --workdir=runs/uned
  universal-embedding train --config=my/recipe.py:variant=UJCDS --config.data.batch_size=64 ...

  universal-embedding train --continue_from=runs/uned --data=new_uned --workdir=runs/uned2

--config takes the name of a packaged recipe or a file. Any field is set on the command line, as in
--config.stages[0].steps=100. Re-running the command resumes an interrupted run. With --dry_run
--device=v3-8, it prints what the run would need there.
"""

import argparse
import hashlib
from typing import TYPE_CHECKING

from universal_embedding.commands.arguments import add_data_dir, add_strategy_flags, add_switch
from universal_embedding.commands.config_flag import CONFIG_PREFIXES, read_config_flag
from universal_embedding.commands.dry_run import (
    add_dry_run_flags,
    check_no_dry_run_flags,
    dry_run,
)
from universal_embedding.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from ml_collections import ConfigDict

    from universal_embedding.datasets.records import Records
    from universal_embedding.evaluation.validation import Validation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `train`."""
    parser.add_argument("--config", help="Recipe: NAME or FILE.py, then [:ARGUMENT].")
    parser.add_argument("--continue_from", help="Run to continue with --data, instead of --config.")
    parser.add_argument("--data", help="Prepared dataset that joins that run's own.")
    parser.add_argument("--workdir", help="Run directory: checkpoints and metrics.")
    add_data_dir(parser)
    add_strategy_flags(parser)
    parser.add_argument(
        "--data_service",
        default="",
        help="tf.data service that makes the images: grpc://HOST:PORT.",
    )
    parser.add_argument(
        "--init_from", help="Run or SavedModel to start from; the same as --config.init_from."
    )
    add_switch(parser, "deterministic", "Use deterministic ops, so runs are bit-reproducible.")
    parser.add_argument("--profile", help="FROM:TO: profile these steps, for TensorBoard.")
    parser.add_argument("--wandb", help="Send metrics to this project of Weights & Biases as well.")
    add_dry_run_flags(parser)
    parser.set_defaults(override_prefixes=CONFIG_PREFIXES)


def run(args: argparse.Namespace) -> None:
    """Trains to the end, or until a signal saves the state."""
    config = read_config_flag(_recipe(args), args.unparsed)
    if args.init_from is not None:
        config.init_from = args.init_from
    if args.dry_run:
        dry_run(args, config)
        return
    check_no_dry_run_flags(args)
    if not args.workdir:
        raise UserError("--workdir is missing; name the directory for checkpoints and metrics")

    from universal_embedding.files import as_path

    workdir = as_path(args.workdir)
    if args.data_service and not args.data_service.startswith("grpc://"):
        raise UserError(
            f"--data_service={args.data_service} must be the address of a tf.data service's "
            "dispatcher: grpc://HOST:PORT"
        )
    if args.data_service and args.allow_unproven_slice:
        raise UserError(
            f"--data_service={args.data_service} cannot feed a TPU slice of several hosts; leave "
            "it out, and the hosts read for themselves, or leave --allow_unproven_slice out"
        )

    from universal_embedding.training.checkpoints import newest_step
    from universal_embedding.training.recovery import restart_when_lost

    with restart_when_lost(lambda: newest_step(workdir)):
        _train(args, config, workdir)


def _recipe(args: argparse.Namespace) -> str:
    """The recipe that the flags name: --config, or `continued`."""
    if bool(args.continue_from) != bool(args.data) or bool(args.config) == bool(args.data):
        raise UserError("give --config=RECIPE, or --continue_from=RUN together with --data=DATASET")
    return args.config or f"continued:run={args.continue_from},data={args.data}"


def _train(args: argparse.Namespace, config: "ConfigDict", workdir: "Path") -> None:
    from universal_embedding.training.strategy import make_strategy

    name = "tpu" if args.tpu else args.strategy
    strategy = make_strategy(name, args.tpu, args.allow_unproven_slice)
    if args.deterministic:
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()

    from universal_embedding.datasets.records import default_data_dir, open_records
    from universal_embedding.evaluation.embed import open_eval_sets
    from universal_embedding.evaluation.validation import Validation
    from universal_embedding.files import as_path
    from universal_embedding.models.distribution import (
        assert_same_on_hosts,
        num_hosts_and_id,
        run_on_hosts,
    )
    from universal_embedding.reporting.montage import draw_validation_examples
    from universal_embedding.training.experiment import Experiment
    from universal_embedding.training.hardware import describe_hardware
    from universal_embedding.training.hooks import Hook, default_hooks
    from universal_embedding.training.profile_hook import ProfileHook
    from universal_embedding.training.run_directory import write_config
    from universal_embedding.training.trainer import train
    from universal_embedding.training.wandb_hook import WandbHook

    extra_hooks: list[Hook] = [ProfileHook.from_flag(args.profile)] if args.profile else []
    extra_hooks += [WandbHook(args.wandb)] if args.wandb else []
    data_dir, dataset = as_path(args.data_dir or default_data_dir()), config.data.dataset

    def open_data() -> "tuple[dict[str, Validation], dict[str, Records]]":
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
        return evaluators, {key: open_records(data_dir, dataset, key, "train") for key in domains}

    digest = hashlib.sha256(config.to_json(sort_keys=True).encode()).hexdigest()
    remedy = "start the same command on all of them"
    assert_same_on_hosts(f"config {digest[:16]}", strategy, remedy)
    evaluators, records = run_on_hosts(open_data, strategy)
    experiment = Experiment.from_config(config, records, workdir, strategy, args.data_service)
    summary = experiment.data_summary() | {"data_dir": str(data_dir.resolve())}
    summary["hardware"] = describe_hardware(strategy)
    run_on_hosts(lambda: write_config(workdir, config, summary), strategy, chief_first=True)
    is_done = train(experiment, [*default_hooks(experiment, evaluators), *extra_hooks])
    if is_done and num_hosts_and_id(strategy)[1] == 0:
        print(f"trained: {workdir}\nnext: universal-embedding evaluate --model={workdir}")
