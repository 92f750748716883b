"""The front door: `Embedder.from_pretrained(...).encode(images)`."""

import dataclasses
import os
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
import tensorflow as tf
from PIL import Image
from tqdm import tqdm

from universal_embedding.datasets.image_files import read_image, read_image_bytes, to_tf_decodable
from universal_embedding.errors import UserError
from universal_embedding.export.pretrained import PretrainedModel, open_pretrained

ImageInput = str | os.PathLike | bytes | np.ndarray | Image.Image
Batch = tuple[list[bytes | np.ndarray], list[str]]
"""Images as encoded bytes or pixels, and their names for errors."""

UNIT_TOLERANCE = 1e-3
_EXPECTED = "expected a path, bytes, a PIL image, a uint8 array, or an iterable of them"


class Embedder:
    """Turns images into unit vectors with a trained or pretrained model.

        model = Embedder.from_pretrained("runs/uned")
        embeddings = model.encode(["cat.jpg", pil_image, array])
        scores = model.similarity(embeddings, embeddings)

    Args:
        name: Name of the model, as given to `from_pretrained`.
        model: The opened model.
    """

    def __init__(self, name: str, model: PretrainedModel) -> None:
        self._name = name
        self._model = model

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike,
        checkpoint: str = "best",
        image_size: int | None = None,
        resize_mode: str = "squash",
        dimension: int | None = None,
    ) -> "Embedder":
        """Opens a model.

        Args:
            path: One of
                a run directory, written by `universal-embedding train`;
                a SavedModel directory or a submission zip, written by `universal-embedding export`;
                an `.onnx`, `.tflite` or OpenVINO `.xml` file of the same, which runs without
                TensorFlow's kernels;
                a `.keras` or `.h5` file of an `EmbeddingModel`, or of any model from images to
                features;
                a backbone that `list_backbones` lists, or a preset of KerasHub by handle or
                directory. Backbones have no projection: their features become the embeddings.
            checkpoint: Checkpoint of a run directory: `best`, `last`, or `initial` (before
                training).
            image_size: Input size for a backbone, in pixels; 224 by default. Other models have
                their own.
            resize_mode: How images become square for a backbone: `squash`, `crop` or `pad`.
            dimension: Embed images as so many of the first dimensions; None: all. A run with
                `config.head.prefixes` has trained some for it.

        Raises:
            UserError: There is no such model, it cannot be loaded, the zip is unsafe, or the
                embedding has fewer dimensions.
        """
        model = cls(os.fspath(path), open_pretrained(path, checkpoint, image_size, resize_mode))
        return model.with_dimension(dimension) if dimension else model

    def with_dimension(self, dimension: int) -> "Embedder":
        """The same model, whose embeddings are the first dimensions, scaled to unit length.

        Raises:
            UserError: There are not so many.
        """
        model = self._model
        if not 1 <= dimension <= model.embedding_dim:
            raise UserError(
                f"dimension={dimension} is not a prefix of the {model.embedding_dim} dimensions of "
                f"{self.name}; give 1 to {model.embedding_dim}"
            )

        def cut(embed: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[tf.Tensor], tf.Tensor]:
            return lambda images: tf.math.l2_normalize(embed(images)[:, :dimension], axis=-1)

        encoded = None if model.embed_encoded is None else cut(model.embed_encoded)
        return Embedder(
            self.name,
            dataclasses.replace(
                model, embed=cut(model.embed), embed_encoded=encoded, embedding_dim=dimension
            ),
        )

    @property
    def name(self) -> str:
        """Name of the model, as given to `from_pretrained`."""
        return self._name

    @property
    def embedding_dim(self) -> int:
        """D, the number of dimensions of an embedding."""
        return self._model.embedding_dim

    @property
    def image_size(self) -> int | None:
        """Side of the model's input in pixels; None for a SavedModel that does not tell."""
        return self._model.image_size

    @property
    def fingerprint(self) -> str:
        """sha256 that identifies the model: equal for a SavedModel directory and its zip."""
        return self._model.fingerprint

    def __repr__(self) -> str:
        return (
            f"Embedder({self.name!r}, kind={self._model.kind!r}, "
            f"embedding_dim={self.embedding_dim}, image_size={self.image_size}, "
            f"fingerprint={self.fingerprint[:12]!r})"
        )

    def encode(
        self,
        images: ImageInput | Iterable[ImageInput],
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
    ) -> np.ndarray:
        """Embeds images, with at most two batches of them in memory.

        `datasets.image_files` reads all of them, so that a path, its bytes and its pixels have the
        same embedding.

        Args:
            images: Paths of image files, their bytes, PIL images, uint8 arrays `[H, W, 3]` (RGB) or
                `[H, W]` (gray), or an iterable of any mix of these, such as a generator; a single
                image counts as a list of one.
            batch_size: Images embedded together.
            show_progress_bar: None shows it only if standard error is a terminal.

        Returns:
            `[N, D]` float32, a unit row per image, in order.

        Raises:
            UserError: An image cannot be read; the message names it.
        """
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}; it must be at least 1")
        inputs = _as_iterable(images)
        total = len(inputs) if isinstance(inputs, Sized) else None
        blocks = []
        disable = None if show_progress_bar is None else not show_progress_bar
        with tqdm(total=total, unit="image", disable=disable) as bar:
            # Not a loop over the batches: its variable would keep one more of them in memory.
            for rows in map(self._embed_batch, self._read_batches(inputs, batch_size)):
                blocks.append(rows)
                bar.update(len(rows))
        return np.concatenate(blocks) if blocks else self._empty(0)

    def similarity(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Cosine similarity of every row of `a` `[N, D]` to every row of `b` `[M, D]`.

        Returns:
            `[N, M]` float32.
        """
        rows_a, rows_b = (np.atleast_2d(np.asarray(rows, np.float32)) for rows in (a, b))
        return _unit_rows(rows_a) @ _unit_rows(rows_b).T

    def _read_batches(self, images: Iterable[ImageInput], batch_size: int) -> Iterator[Batch]:
        """Reads the next batch while the model works on the current one."""
        is_stream = not isinstance(images, Sized)
        iterator = enumerate(images)
        pending: deque[tuple[list[Future], list[str]]] = deque()
        with ThreadPoolExecutor() as pool:
            while batch := self._submit_batch(pool, islice(iterator, batch_size), is_stream):
                pending.append(batch)
                if len(pending) == 2:
                    yield _collect(*pending.popleft())
            if pending:
                yield _collect(*pending.popleft())

    def _submit_batch(
        self,
        pool: ThreadPoolExecutor,
        batch: Iterable[tuple[int, ImageInput]],
        is_stream: bool,
    ) -> tuple[list[Future], list[str]] | None:
        futures, names = [], []
        for position, image in batch:
            names.append(_describe(image, position))
            futures.append(pool.submit(self._read, image, names[-1]))
            if is_stream and not isinstance(image, str | os.PathLike | bytes):
                wait(futures[-1:])  # a generator may close or overwrite what it yielded before
        return (futures, names) if names else None

    def _read(self, image: ImageInput, name: str) -> bytes | np.ndarray:
        """Encoded bytes where the model decodes them itself, which is faster; else pixels."""
        if not isinstance(image, ImageInput) and hasattr(image, "__array__"):
            image = np.asarray(image)
        if not isinstance(image, ImageInput):
            raise UserError(f"{name}: {_EXPECTED}")
        try:
            if self._model.embed_encoded is not None and isinstance(image, bytes):
                return to_tf_decodable(image)
            if self._model.embed_encoded is not None and isinstance(image, str | os.PathLike):
                path = Path(image)
                return read_image_bytes(path.parent, path.name)
            pixels = read_image(image)
            if self._model.prepare is not None:
                return self._model.prepare(pixels)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
        return pixels.copy() if pixels is image else pixels

    def _embed_batch(self, batch: Batch) -> np.ndarray:
        contents, names = batch
        rows = self._empty(len(contents))
        groups = defaultdict(list)  # images that fit into one call
        for i, image in enumerate(contents):
            groups[image.shape if isinstance(image, np.ndarray) else None].append(i)
        for indices in groups.values():
            rows[indices] = self._call([contents[i] for i in indices], [names[i] for i in indices])
        return rows

    def _call(self, contents: Sequence[bytes | np.ndarray], names: Sequence[str]) -> np.ndarray:
        """Embeds images that are all encoded, or all arrays of one shape."""
        try:
            if isinstance(contents[0], bytes) and self._model.embed_encoded is not None:
                rows = self._model.embed_encoded(tf.constant(contents))
            else:
                rows = self._model.embed(tf.constant(np.stack(contents)))
        except tf.errors.InvalidArgumentError as error:
            if len(contents) > 1:  # find the image that fails
                pairs = zip(contents, names, strict=True)
                return np.concatenate([self._call([image], [name]) for image, name in pairs])
            reason = error.message.splitlines()[0]
            raise UserError(
                f"{names[0]} cannot be embedded by {self.name} ({reason}): leave it out or replace "
                "it"
            ) from error
        return _unit_rows(rows.numpy())

    def _empty(self, count: int) -> np.ndarray:
        return np.empty([count, self.embedding_dim], np.float32)


def _as_iterable(images: ImageInput | Iterable[ImageInput]) -> Iterable[ImageInput]:
    if isinstance(images, str | os.PathLike | bytes | Image.Image):
        return [images]
    if hasattr(images, "__array__"):  # of NumPy, or a tensor
        array = cast(np.ndarray, images)
        return [array] if array.ndim < 4 else array
    if not isinstance(images, Iterable):
        raise UserError(f"cannot encode a {type(images).__name__}: {_EXPECTED}")
    return images


def _collect(futures: list[Future], names: list[str]) -> Batch:
    return [future.result() for future in futures], names


def _describe(image: ImageInput, position: int) -> str:
    if isinstance(image, str | os.PathLike):
        return os.fspath(image)
    return f"image {position} ({type(image).__name__})"


def _unit_rows(rows: np.ndarray) -> np.ndarray:
    """Scales rows to unit length; leaves zero rows, and rows that have it already, unchanged."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    scale = np.where((norms > 0) & (np.abs(norms - 1) > UNIT_TOLERANCE), norms, 1)
    return (rows / scale).astype(np.float32, copy=False)
