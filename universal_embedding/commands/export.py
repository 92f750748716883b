"""Write a trained model as a SavedModel and as a zip for Kaggle's scorer.

universal-embedding export --workdir=runs/uned --output=submission.zip [--saved_model=DIR]
"""

import argparse

from universal_embedding.commands.arguments import add_switch
from universal_embedding.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `export`."""
    parser.add_argument("--workdir", required=True, help="Run directory written by `train`.")
    parser.add_argument(
        "--checkpoint", default="best", choices=["best", "last"], help="Checkpoint to export."
    )
    parser.add_argument("--output", help="Zip to write.")
    parser.add_argument("--saved_model", help="SavedModel directory to write.")
    add_switch(parser, "float16", "Store kernels in float16: half the size.")
    parser.add_argument("--report", help="report.json of `evaluate`, for the model card.")


def run(args: argparse.Namespace) -> None:
    """Exports, and checks the export against the trained model."""
    if not args.output and not args.saved_model:
        raise UserError("nothing to write: give --output=submission.zip, --saved_model=DIR or both")
    from universal_embedding.export.export import export_model

    lines = export_model(
        args.workdir,
        zip_path=args.output,
        saved_model_dir=args.saved_model,
        checkpoint=args.checkpoint,
        float16=args.float16,
        report=args.report,
    )
    print("\n".join(lines))
