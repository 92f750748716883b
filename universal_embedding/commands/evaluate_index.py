"""Measure how well an index retrieves its own categories: each image searches among the others.

universal-embedding evaluate-index --index=photos.index [--montage=failures.png]
"""

import argparse
import json

from universal_embedding.commands.arguments import add_index_flags, float_between, int_at_least


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `evaluate-index`."""
    add_index_flags(parser)
    add = parser.add_argument
    add("--montage", help="Write a montage of the failures to this PNG.")
    add(
        "--target_precision",
        type=float_between(0.0, 1.0),
        default=0.9,
        help="Precision at which to report the distance threshold.",
    )
    queries_help = "Rows of an index of embeddings that search it, drawn at random."
    add("--num_queries", type=int_at_least(1), default=10_000, help=queries_help)
    add("--report", help="Write all numbers to this JSON file.")


def run(args: argparse.Namespace) -> None:
    """Prints the leave-one-out report of an index."""
    from universal_embedding.app import hit_montage, leave_one_out
    from universal_embedding.app.searchable import open_index
    from universal_embedding.datasets.contact_sheet import save_montage
    from universal_embedding.files import atomic_write, check_writable

    for name in ("report", "montage"):
        if getattr(args, name):
            check_writable(getattr(args, name), f"--{name}")
    index = open_index(args.index, args.model, args.exact_search_below)
    if not index.is_exact:
        print(index.describe_approximation())
    results = leave_one_out.leave_one_out(index, num_queries=args.num_queries)
    report = leave_one_out.make_report(results, args.target_precision)
    print(leave_one_out.format_report(report))
    if args.report:
        with atomic_write(args.report) as file:
            json.dump(report, file, indent=1, ensure_ascii=False)
        print(f"wrote {args.report}")
    failures = leave_one_out.worst_failures(results)
    if args.montage and failures:
        save_montage(hit_montage.failure_montage(index, failures), args.montage)
        print(f"wrote {args.montage}")
    elif args.montage:
        print("no failures, so no montage")
