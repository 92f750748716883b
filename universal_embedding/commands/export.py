"""Write a trained model as a SavedModel and as a zip for Kaggle's scorer.

universal-embedding export --workdir=runs/uned --output=submission.zip [--saved_model=DIR]

--format=onnx, litert or openvino writes the network alone, for square images, and a JSON file that
says how an image becomes one.

--compatible_with=OLD maps the embeddings into the space of an older model, so that they search its
index; the map is fitted on images embedded by both, and costs nothing.
"""

import argparse

from universal_embedding.commands.arguments import add_switch, int_at_least
from universal_embedding.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `export`."""
    parser.add_argument("--workdir", required=True, help="Run directory written by `train`.")
    parser.add_argument(
        "--checkpoint", default="best", choices=["best", "last"], help="Checkpoint to export."
    )
    parser.add_argument("--output", help="File or directory to write, of --format.")
    parser.add_argument("--saved_model", help="SavedModel directory to write.")
    parser.add_argument(
        "--format",
        default="kaggle",
        choices=["kaggle", "saved_model", "onnx", "litert", "openvino"],
        help="Format of --output.",
    )
    parser.add_argument(
        "--quantization",
        default="none",
        choices=["none", "float16", "dynamic", "int8"],
        help="Of --format=litert; int8 measures ranges on training images.",
    )
    add_switch(parser, "float16", "Store kernels in float16: half the size.")
    parser.add_argument("--report", help="report.json of `evaluate`, for the model card.")
    parser.add_argument(
        "--compatible_with",
        help="Run directory or export of an older model, whose index this one is to search.",
    )
    dimension_help = "Export only the first dimensions, as unit vectors; all by default."
    parser.add_argument("--dimension", type=int_at_least(1), help=dimension_help)
    parser.add_argument("--data_dir", help="Prepared images for --compatible_with; the run's.")


def run(args: argparse.Namespace) -> None:
    """Exports, and checks the export against the trained model."""
    if not args.output and not args.saved_model:
        raise UserError("nothing to write: give --output=submission.zip, --saved_model=DIR or both")
    if args.format == "saved_model" and args.saved_model:
        raise UserError("--format=saved_model writes --output, so leave --saved_model out")
    from universal_embedding.export.export import export_model

    lines = export_model(
        args.workdir,
        zip_path=args.output if args.format == "kaggle" else None,
        saved_model_dir=args.output if args.format == "saved_model" else args.saved_model,
        network_paths=(
            {args.format: args.output} if args.format in ("onnx", "litert", "openvino") else None
        ),
        quantization=args.quantization,
        checkpoint=args.checkpoint,
        float16=args.float16,
        report=args.report,
        compatible_with=args.compatible_with,
        data_dir=args.data_dir,
        dimension=args.dimension,
    )
    print("\n".join(lines))
