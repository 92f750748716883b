"""Scores a submission as Kaggle does, and keeps a leaderboard.

    python tools/score.py --submission=submission.zip --query_dir=DIR --index_dir=DIR \
        --solution=solution.csv [--predictions=predictions.csv]

A picture's id is its file's name without suffix. Without --submission the predictions are read
instead of made. tools/make_solution.py makes such folders from labelled pictures.
"""

from pathlib import Path

from absl import flags

from universal_embedding import command
from universal_embedding.errors import UserError

SUBMISSION = flags.DEFINE_string("submission", None, "The zip to score.")
QUERY_DIR = flags.DEFINE_string("query_dir", None, "Folder of the query pictures.")
INDEX_DIR = flags.DEFINE_string("index_dir", None, "Folder of the index pictures.")
SOLUTION = flags.DEFINE_string("solution", None, "csv: id,images,Usage.", required=True)
PREDICTIONS = flags.DEFINE_string("predictions", None, "csv: id,images; written, or read.")
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 1, "Pictures of one size embedded together; Kaggle takes one.", lower_bound=1
)
LEADERBOARD = flags.DEFINE_string("leaderboard", None, "Default: leaderboard.jsonl at --solution.")


def main(argv: list[str]) -> None:
    del argv
    if not SUBMISSION.value and not PREDICTIONS.value:
        raise UserError("nothing to score: give --submission=submission.zip or --predictions=FILE")
    if SUBMISSION.value and not (QUERY_DIR.value and INDEX_DIR.value):
        raise UserError("--submission needs --query_dir and --index_dir, the pictures to embed")
    from universal_embedding.export import competition, scoring

    solution = competition.read_solution(SOLUTION.value)
    if SUBMISSION.value:
        scored = scoring.of_submission(
            SUBMISSION.value, QUERY_DIR.value, INDEX_DIR.value, solution, BATCH_SIZE.value
        )
        if PREDICTIONS.value:
            competition.write_predictions(PREDICTIONS.value, scored.predictions)
    else:
        scored = scoring.of_predictions(PREDICTIONS.value)
    board = LEADERBOARD.value or Path(SOLUTION.value).with_name("leaderboard.jsonl")
    print(scoring.enter(scored, solution, SOLUTION.value, board))


if __name__ == "__main__":
    command.run(main)
