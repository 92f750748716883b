"""The flags --dry_run, --device, --utilization and --output of `train`."""

import argparse
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from universal_embedding.commands.arguments import add_switch, float_between
from universal_embedding.errors import UserError

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from universal_embedding.datasets.records import Records


def add_dry_run_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of a dry run."""
    add_switch(parser, "dry_run", "Estimate memory, time and disk on --device; train nothing.")
    parser.add_argument("--device", help="Device of --dry_run: v3-8, v4-32, v5e-8, h100x8, ...")
    parser.add_argument(
        "--utilization",
        type=float_between(0.01, 1.0),
        default=0.4,
        help="Share of the peak FLOP/s that --dry_run assumes.",
    )
    parser.add_argument("--output", help="JSON file for the numbers of --dry_run.")


def check_no_dry_run_flags(args: argparse.Namespace) -> None:
    """Refuses flags that only a dry run reads.

    Raises:
        UserError: one of them was given.
    """
    for name in ("device", "output"):
        value = getattr(args, name)
        if value is not None:
            raise UserError(f"--{name}={value} needs --dry_run; add it, or leave --{name} out")


def dry_run(args: argparse.Namespace, config: "ConfigDict") -> None:
    """Prints the estimate of a run.

    Raises:
        UserError: the device is unknown, or the run cannot be built.
    """
    from universal_embedding.datasets.records import default_data_dir
    from universal_embedding.files import as_path, atomic_write, check_writable
    from universal_embedding.training.dry_run.devices import find_device

    if not args.device:
        raise UserError("--dry_run needs the device to estimate for, such as --device=v3-8")
    device = find_device(args.device)
    if args.output:
        check_writable(as_path(args.output), "--output")

    from universal_embedding.reporting.dry_run_text import format_dry_run
    from universal_embedding.training.dry_run.estimate import estimate_run

    data_dir = args.data_dir or default_data_dir()
    records, num_eval_images = _open_data(config, data_dir)
    estimate = estimate_run(config, records, num_eval_images, device, args.utilization)
    print(format_dry_run(estimate))
    if args.output:
        with atomic_write(as_path(args.output)) as file:
            file.write(json.dumps(estimate.to_dict(), indent=2) + "\n")


def _open_data(
    config: "ConfigDict", data_dir: str
) -> "tuple[Mapping[str, Records], dict[str, int | None]]":
    """Training records, and the images of each evaluation: as prepared, else as published."""
    from universal_embedding.datasets.records import list_prepared_domains, open_records
    from universal_embedding.evaluation.embed import open_eval_sets
    from universal_embedding.files import as_path
    from universal_embedding.training.dry_run.tracing import planned_records

    data = config.data
    if not data.dataset or not (as_path(data_dir) / data.dataset).is_dir():
        planned = planned_records(config)
        counts = [domain.num_val_images for domain in planned.values()]
        total = None if None in counts else sum(filter(None, counts))
        return cast("Mapping[str, Records]", planned), {
            name: total if options.split == "val" else None
            for name, options in config.evals.items()
        }
    list_prepared_domains(data_dir, data.dataset)  # says what to do where nothing is prepared
    num_eval_images: dict[str, int | None] = {}
    for name, options in config.evals.items():
        eval_sets = open_eval_sets(data_dir, data.dataset, options.split, data.domains)
        num_eval_images[name] = sum(
            len(pair.queries) + (0 if pair.index is None else len(pair.index))
            for pair in eval_sets.values()
        )
    domains = list(open_eval_sets(data_dir, data.dataset, "val", data.domains))
    return {k: open_records(data_dir, data.dataset, k, "train") for k in domains}, num_eval_images
