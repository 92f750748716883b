"""Shards written by the workers of an Apache Beam pipeline, on this machine or others."""

from collections.abc import Sequence
from typing import Any

from universal_embedding.datasets import shards
from universal_embedding.errors import UserError

try:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions, TypeOptions
except ImportError as error:
    raise UserError(
        f"--beam_pipeline_options needs Apache Beam ({error}): "
        "pip install 'universal-embedding[beam]'"
    ) from None


def parse_options(text: str) -> "PipelineOptions":
    """Beam's own options from `runner=DirectRunner,direct_num_workers=2`, as TFDS writes them."""
    try:
        options = PipelineOptions([f"--{item.strip()}" for item in text.split(",") if item.strip()])
        options.get_all_options()
    except (SystemExit, ValueError) as error:
        raise UserError(f"--beam_pipeline_options={text} is not for Beam: {error}") from None
    # Else the direct runner would first fetch another one, Prism, from the network. This pipeline
    # has no triggers.
    options.view_as(TypeOptions).allow_unsafe_triggers = True
    return options


def write_shards(work: Sequence[shards.Shard], runner: Any, options: Any) -> None:
    """Writes each shard in some worker; they and this process must see the same files.

    A worker reads a manifest and writes a record file, so that no picture passes through Beam.
    """
    with beam.Pipeline(runner=runner, options=options) as pipeline:
        _ = (
            pipeline
            | "Shards" >> beam.Create(list(work))
            | "Spread" >> beam.Reshuffle()
            | "Write" >> beam.Map(shards.write)
        )
