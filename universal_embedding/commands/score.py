r"""Score a submission as Kaggle does, and keep a leaderboard.

  universal-embedding score --submission=submission.zip --query_dir=DIR --index_dir=DIR \
      --solution=solution.csv [--predictions=predictions.csv]

An image's id is its file name without suffix. Without --submission, predictions are read instead of
computed. `make-solution` makes such folders from labeled images.
"""

import argparse
from pathlib import Path

from universal_embedding.commands.arguments import int_at_least
from universal_embedding.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `score`."""
    add = parser.add_argument
    add("--submission", help="Zip to score.")
    add("--query_dir", help="Folder of the query images.")
    add("--index_dir", help="Folder of the index images.")
    add("--solution", required=True, help="CSV file of id,images,Usage.")
    add("--predictions", help="CSV file of id,images, written with --submission, else read.")
    batch_help = "Images of one size embedded together; Kaggle takes one."
    add("--batch_size", type=int_at_least(1), default=1, help=batch_help)
    add("--leaderboard", help="JSON lines file; leaderboard.jsonl beside --solution by default.")


def run(args: argparse.Namespace) -> None:
    """Prints the score and the leaderboard."""
    if not args.submission and not args.predictions:
        raise UserError("nothing to score: give --submission=submission.zip or --predictions=FILE")
    if args.submission and not (args.query_dir and args.index_dir):
        raise UserError("--submission needs --query_dir and --index_dir, the images to embed")
    from universal_embedding.kaggle import competition, leaderboard, score

    solution = competition.read_solution(args.solution)
    board = args.leaderboard or Path(args.solution).with_name("leaderboard.jsonl")
    leaderboard.check_writable(board)
    if args.submission:
        result = score.score_submission(
            args.submission, args.query_dir, args.index_dir, solution, args.batch_size
        )
    else:
        result = score.load_predictions(args.predictions)
    for text in score.record_result(result, solution, args.solution, board):
        print(text, flush=True)
    if args.submission and args.predictions:
        competition.write_predictions(args.predictions, result.predictions)
