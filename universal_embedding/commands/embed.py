"""Embed many images into parts, on this machine or by Apache Beam; a second call resumes.

  universal-embedding embed --model=runs/uned --images=PHOTOS --output=EMBEDDINGS
  universal-embedding embed ... --beam_pipeline_options=runner=DirectRunner,direct_num_workers=2

Row i of part-00042.npy belongs to row i of part-00042.parquet: name, size, label, error.
"""

import argparse

from universal_embedding.commands.arguments import int_at_least


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `embed`."""
    add = parser.add_argument
    model_help = "A run directory, SavedModel, submission zip, .keras file or preset."
    add("--model", required=True, help=model_help)
    dimension_help = "Keep only the first dimensions of the embeddings; all by default."
    add("--dimension", type=int_at_least(1), help=dimension_help)
    images_help = (
        "Folder of images (local or gs://), a .parquet with a column `name` of paths, or the "
        "prepared folder of a domain or of a whole data set."
    )
    add("--images", required=True, help=images_help)
    add("--split", default="test", help="Split of a prepared folder.")
    add("--output", required=True, help="Directory of the parts, local or gs://.")
    part_help = "Images in a part; what is lost when a part is interrupted."
    add("--images_per_part", type=int_at_least(1), default=8192, help=part_help)
    dtype_help = "Format of the embeddings."
    add("--dtype", default="float16", choices=["float16", "float32", "int8"], help=dtype_help)
    add("--batch_size", type=int_at_least(1), default=32, help="Images per batch.")
    beam_help = "Options of Apache Beam, comma-separated; without it, one process does the work."
    add("--beam_pipeline_options", help=beam_help)


def run(args: argparse.Namespace) -> None:
    """Writes the parts that are missing and prints the counts."""
    import functools

    from universal_embedding.app.embedding_parts import ERRORS, PartsConfig, embed_images
    from universal_embedding.app.image_sources import open_source
    from universal_embedding.datasets.beam import parse_beam_options
    from universal_embedding.export.embedder import Embedder

    options = None
    if args.beam_pipeline_options is not None:
        options = parse_beam_options(args.beam_pipeline_options)
    config = PartsConfig(args.output, args.images_per_part, args.dtype, args.batch_size)
    source = open_source(args.images, args.split)
    open_model = functools.partial(Embedder.from_pretrained, args.model, dimension=args.dimension)
    count, num_errors = embed_images(open_model, args.model, source, config, options)
    print(f"{args.output}: {count} images, {num_errors} of them unreadable, listed in {ERRORS}")
