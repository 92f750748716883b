"""Apache Beam's part: its options, and a pipeline of one step that writes shards."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tqdm import tqdm

from universal_embedding.datasets.shards import ShardSpec, write_shard
from universal_embedding.errors import UserError
from universal_embedding.files import is_remote, list_directory

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions


def parse_beam_options(text: str) -> "PipelineOptions":
    """Parses Beam's options from `runner=DirectRunner,direct_num_workers=2`, as TFDS does.

    Raises:
        UserError: Apache Beam is not installed or refuses the options.
    """
    try:
        from apache_beam.options.pipeline_options import PipelineOptions, TypeOptions
    except ImportError as error:
        raise UserError(
            f"--beam_pipeline_options needs Apache Beam ({error}): "
            "pip install 'universal-embedding[beam]'"
        ) from None
    try:
        options = PipelineOptions([f"--{item.strip()}" for item in text.split(",") if item.strip()])
        options.get_all_options()
    except (SystemExit, ValueError) as error:
        raise UserError(
            f"Apache Beam refuses --beam_pipeline_options={text} ({error}); correct them"
        ) from None
    # Without this, the direct runner would first download another one, Prism. This pipeline has no
    # triggers.
    options.view_as(TypeOptions).allow_unsafe_triggers = True
    return options


def write_with_beam(specs: Sequence[ShardSpec], options: "PipelineOptions", bar: tqdm) -> None:
    """Writes each shard in some worker, on any machine that reads and writes the same files.

    A worker reads a manifest and writes a record file, so no image passes through Beam. They meet
    through these files alone: on one machine any disk will do, on a cluster a bucket.
    """
    import apache_beam as beam

    with watch_progress(specs, bar), beam.Pipeline(options=options) as pipeline:
        _ = (
            pipeline
            | "Shards" >> beam.Create(list(specs))
            | "Spread" >> beam.Reshuffle()
            | "Write" >> beam.Map(write_shard)
        )


@contextmanager
def watch_progress(specs: Sequence[ShardSpec], bar: tqdm) -> Iterator[None]:
    """Advances the bar as shards are finished, in whatever process, while the block runs."""
    finished = threading.Event()
    folder = specs[0].result_file.parent
    seconds = 5.0 if is_remote(folder) else 0.5

    def watch() -> None:
        pending = list(specs)
        while pending:
            is_last = finished.wait(seconds)
            names = {path.name for path in list_directory(folder)}
            done = [spec for spec in pending if spec.result_file.name in names]
            bar.update(sum(spec.num_images for spec in done))
            pending = [spec for spec in pending if spec not in done]
            if is_last:
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        finished.set()
        watcher.join()
