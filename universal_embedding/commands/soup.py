"""Average the weights of several runs, or of a run and its start, into a new run.

  universal-embedding soup RUN RUN ... --output=runs/soup [--method=greedy]
  universal-embedding soup RUN --start_share=0.3 --output=runs/wise_ft

Meaningful where the runs share one embedding space: where they started from one run's projection
and classes (--init_from, --config.init_head=True) and locked both (projection_lr=head_lr=0).
"""

import argparse

from universal_embedding.commands.arguments import float_between


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `soup`."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="Run directories of one model.")
    parser.add_argument("--output", required=True, help="Run directory to write.")
    parser.add_argument(
        "--method",
        default="uniform",
        choices=["uniform", "greedy"],
        help="Average all runs, or add those that do not lower the validation score.",
    )
    parser.add_argument(
        "--start_share",
        type=float_between(0.0, 1.0),
        default=0.0,
        help="Share of each run's initial weights (WiSE-FT).",
    )


def run(args: argparse.Namespace) -> None:
    """Writes the soup, and says so if its weights were not trained in one space."""
    from universal_embedding.evaluation import soup
    from universal_embedding.files import as_path

    runs, output = [as_path(run) for run in args.runs], as_path(args.output)
    score = soup.make_score(runs[0]) if args.method == "greedy" else None
    result = soup.make_soup(runs, output, args.method, args.start_share, score)
    print(f"soup of {', '.join(args.runs[i] for i in result.members)}: {output}")
    if result.score is not None:
        print(f"validation: {result.score:.4f}")
    if not result.share_space:
        print(
            "note: the runs have different projections or classes, so their embeddings have no "
            "common space; soups are meant for runs in which both were locked"
        )
    print(f"next: universal-embedding evaluate --model={output}")
