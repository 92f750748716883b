r"""Score a submission as Kaggle does, and keep a leaderboard.

  universal-embedding score --submission=submission.zip --query_dir=DIR --index_dir=DIR \
      --solution=solution.csv [--predictions=predictions.csv]

An image's id is its file name without suffix. Without --submission, predictions are read instead of
computed. `make-solution` makes such folders from labeled images.
"""

import argparse

from universal_embedding.commands.arguments import add_local_path, int_at_least
from universal_embedding.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `score`."""
    add = parser.add_argument
    add("--submission", help="Zip to score.")
    add_local_path(parser, "--query_dir", "Folder of the query images.")
    add_local_path(parser, "--index_dir", "Folder of the index images.")
    add_local_path(parser, "--solution", "CSV file of id,images,Usage.", required=True)
    predictions_help = "CSV file of id,images, written with --submission, else read."
    add_local_path(parser, "--predictions", predictions_help)
    batch_help = "Images of one size embedded together; Kaggle takes one."
    add("--batch_size", type=int_at_least(1), default=1, help=batch_help)
    board_help = "JSON lines file; leaderboard.jsonl beside --solution by default."
    add_local_path(parser, "--leaderboard", board_help)


def run(args: argparse.Namespace) -> None:
    """Prints the score and the leaderboard."""
    if not args.submission and not args.predictions:
        raise UserError("nothing to score: give --submission=submission.zip or --predictions=FILE")
    if args.submission and not (args.query_dir and args.index_dir):
        raise UserError("--submission needs --query_dir and --index_dir, the images to embed")
    from universal_embedding.files import check_writable, fetch
    from universal_embedding.kaggle import competition, leaderboard, score

    solution = competition.read_solution(args.solution)
    board = args.leaderboard or args.solution.with_name("leaderboard.jsonl")
    leaderboard.check_writable(board)
    if args.submission and args.predictions:
        check_writable(args.predictions, "--predictions")
    if args.submission:
        result = score.score_submission(
            fetch(args.submission), args.query_dir, args.index_dir, solution, args.batch_size
        )
    else:
        result = score.load_predictions(args.predictions)
    try:
        for text in score.record_result(result, solution, args.solution, board):
            print(text, flush=True)
    finally:  # also if the leaderboard cannot be written any more
        if args.submission and args.predictions:
            competition.write_predictions(args.predictions, result.predictions)
