"""Embeddings of many images in parts: row i of `part-00042.npy` is row i of `part-00042.parquet`.

A part appears under its name only when it is whole, so a killed program resumes with the parts that
are missing, and ends with the same bytes.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from tqdm import tqdm

from universal_embedding.app.image_sources import ImageSource, read_table
from universal_embedding.app.vector_files import META, import_pyarrow, read_origin
from universal_embedding.errors import UserError
from universal_embedding.files import as_path, atomic_write, list_directory

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

FORMAT = 1
ERRORS = "errors.parquet"
DTYPES = ("float16", "float32", "int8")
_REMEDY = "remove both files of this part and run `embed` again"


class BytesEncoder(Protocol):
    """A model of encoded images; `Embedder` is one."""

    @property
    def fingerprint(self) -> str:
        """sha256 that identifies the model."""

    @property
    def embedding_dim(self) -> int:
        """D."""

    def encode(
        self, images: Sequence[bytes], batch_size: int = 32, show_progress_bar: bool | None = None
    ) -> np.ndarray:
        """Embeds images: `[N, D]` float32, unit rows."""


@dataclass(frozen=True)
class PartsConfig:
    """The layout of a directory of parts.

    Attributes:
        output: The directory, local or remote.
        images_per_part: Number of images in every part but the last.
        dtype: `float16`, `float32`, or `int8` with a column `scale`: a row is its codes x scale.
        batch_size: Images embedded together.
    """

    output: str
    images_per_part: int = 8192
    dtype: str = "float16"
    batch_size: int = 32

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UserError(f"dtype is {self.dtype!r}; embeddings are {', '.join(DTYPES)}")


def embed_images(
    open_model: Callable[[], BytesEncoder],
    model_name: str,
    source: ImageSource,
    config: PartsConfig,
    beam_options: "PipelineOptions | None" = None,
) -> tuple[int, int]:
    """Embeds the images of `source` into parts; those that are there already are left.

    Args:
        open_model: Opens the model; called once, or once in each worker of Beam.
        model_name: Where the model is opened from.
        source: The images.
        config: Where and how they are written.
        beam_options: Options of Apache Beam; None works in this process.

    Returns:
        The number of images, and of those that could not be embedded: their rows are zeros, with a
        reason in the column `error`, and are listed in `errors.parquet`.

    Raises:
        UserError: pyarrow is missing, or the directory holds embeddings of something else.
    """
    import_pyarrow()
    model = open_model()
    _check_meta(model, model_name, source, config)
    step = config.images_per_part
    parts = {n: (n * step, (n + 1) * step) for n in range(-(-len(source) // step))}
    done = {path.name for path in list_directory(as_path(config.output))}
    todo = [n for n in parts if f"{_part_name(n)}.npy" not in done]
    tasks = [(n, source.subset(*parts[n])) for n in todo]
    if beam_options is None:
        with tqdm(total=len(source), unit="image", disable=None) as bar:
            bar.update(len(source) - sum(len(images) for _, images in tasks))
            for number, images in tasks:
                write_part(model, number, images, config)
                bar.update(len(images))
    elif tasks:
        del model  # the workers have their own
        _run_beam(open_model, tasks, config, beam_options)
    return len(source), _collect_errors(config.output)


def write_part(model: BytesEncoder, number: int, images: ImageSource, config: PartsConfig) -> None:
    """Embeds `images` and writes them as part `number`, which its .npy completes."""
    pa = import_pyarrow()
    rows = np.zeros((len(images), model.embedding_dim), np.float32)
    sizes = np.zeros(len(images), np.int64)
    errors: list[str | None] = [None] * len(images)
    for start in range(0, len(images), config.batch_size):
        contents = {}
        for i in range(start, min(start + config.batch_size, len(images))):
            try:
                contents[i] = images.read(i)
                sizes[i] = len(contents[i])
            except UserError as error:
                errors[i] = str(error)
        for i, row in _encode(model, contents, config.batch_size):
            if isinstance(row, np.ndarray) and np.isfinite(row).all():
                rows[i] = row
            else:
                errors[i] = (
                    str(row) if isinstance(row, UserError) else "the embedding is not finite"
                )
    codes, columns = rows.astype(config.dtype), {}
    if images.domains is not None:
        columns["domain"] = pa.array(images.domains, pa.string())
    if config.dtype == "int8":
        scale = np.abs(rows).max(1, initial=0) / 127
        codes = np.rint(rows / np.where(scale > 0, scale, 1)[:, None]).astype(np.int8)
        columns["scale"] = pa.array(scale, pa.float32())
    table = pa.table(
        {
            "name": pa.array(images.names, pa.string()),
            "size": pa.array(sizes, pa.int64()),
            "label": pa.array(images.labels, pa.list_(pa.string())),
            "error": pa.array(errors, pa.string()),
            **columns,
        }
    )
    path = as_path(config.output) / _part_name(number)
    with atomic_write(f"{path}.parquet", "wb") as file:
        pa.parquet.write_table(table, file, write_page_checksum=True)
    with atomic_write(f"{path}.npy", "wb") as file:
        np.save(file, codes)


def _encode(
    model: BytesEncoder, contents: dict[int, bytes], batch_size: int
) -> Iterator[tuple[int, np.ndarray | UserError]]:
    """Embeds a batch together, or image by image if one of them fails."""
    try:
        if contents:
            rows = model.encode(
                list(contents.values()), batch_size=batch_size, show_progress_bar=False
            )
            yield from zip(contents, rows, strict=True)
    except UserError as error:
        if len(contents) == 1:
            yield next(iter(contents)), error
            return
        for i, content in contents.items():
            yield from _encode(model, {i: content}, batch_size)


def _run_beam(
    open_model: Callable[[], BytesEncoder],
    tasks: Sequence[tuple[int, ImageSource]],
    config: PartsConfig,
    options: "PipelineOptions",
) -> None:
    import apache_beam as beam

    class WritePart(beam.DoFn):
        def setup(self) -> None:
            self.model = open_model()

        def process(self, task: Any) -> None:  # Beam checks annotations, and no protocol passes
            number, images = task
            write_part(self.model, number, images, config)

    with beam.Pipeline(options=options) as pipeline:
        parts = pipeline | "Parts" >> beam.Create(tasks) | "Spread" >> beam.Reshuffle()
        _ = parts | "Write" >> beam.ParDo(WritePart())


def _collect_errors(output: str) -> int:
    """Lists the rows with an error in `errors.parquet` and returns their number."""
    pa = import_pyarrow()
    tables = []
    for path in list_directory(as_path(output)):
        if path.suffix == ".parquet" and path.name.startswith("part-"):
            table = read_table(path, _REMEDY, ["name", "size", "error"])
            tables.append(table.filter(pa.compute.is_valid(table["error"])))
    errors = pa.concat_tables(tables)
    with atomic_write(as_path(output) / ERRORS, "wb") as file:
        pa.parquet.write_table(errors, file, write_page_checksum=True)
    return len(errors)


def _check_meta(
    model: BytesEncoder, model_name: str, source: ImageSource, config: PartsConfig
) -> None:
    """Writes what the parts are made of, or compares it with what is there."""
    names = hashlib.sha256("\n".join(source.names).encode(errors="surrogateescape")).hexdigest()
    layout = {k: v for k, v in asdict(config).items() if k != "output"}
    meta: dict[str, Any] = {
        "format": FORMAT,
        "model": model_name,
        "fingerprint": model.fingerprint,
        "embedding_dim": model.embedding_dim,
        "images": source.description,
        "num_images": len(source),
        "names_sha256": names,
        **layout,
    }
    path = as_path(config.output) / META
    if path.exists():
        older = read_origin(config.output)
        different = [key for key in meta if key != "model" and older.get(key) != meta[key]]
        if different:
            key = different[0]
            raise UserError(
                f"{config.output} holds embeddings with {key}={older.get(key)}, not {meta[key]}: "
                "name another --output, or give what made them"
            )
        return
    with atomic_write(path) as file:
        file.write(json.dumps(meta, indent=1) + "\n")


def _part_name(number: int) -> str:
    return f"part-{number:05d}"
