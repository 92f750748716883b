"""Exported models for Python programs: pictures in, `[N, D]` float32 unit rows out."""

import os
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from universal_embedding.datasets import pictures
from universal_embedding.errors import UserError
from universal_embedding.export import archive, signature
from universal_embedding.export.saved_model import ENCODED, UNIT

Picture = str | os.PathLike | bytes | np.ndarray


def load(path: str | os.PathLike) -> "ExportedEmbedder":
    """Opens an exported model: a SavedModel's directory or a submission zip.

    Raises:
        UserError: `path` holds no such model, or the zip is unsafe.
    """
    path = Path(path)
    if path.is_dir():
        return ExportedEmbedder(path, path)
    with tempfile.TemporaryDirectory() as directory:
        archive.unpack(path, directory)
        return ExportedEmbedder(Path(directory), path)


class ExportedEmbedder:
    """Embeds pictures with a SavedModel; `universal_embedding.load` makes one.

    Attributes:
        dimension: D, the size of an embedding.
        fingerprint: sha256 of the model's files, the same for a directory and its zip.
    """

    def __init__(self, directory: Path, origin: Path) -> None:
        self.fingerprint = archive.fingerprint(directory)
        self._model = signature.read(directory, origin)
        self._default = signature.default(self._model, origin)
        self._encoded = self._model.signatures.get(ENCODED)
        self.dimension = self._default.structured_outputs[UNIT].shape[-1]
        if self.dimension is None:
            self.dimension = self._arrays(np.zeros([1, 1, 1, 3], np.uint8)).shape[-1]

    def __call__(
        self, given: Picture | Iterable[Picture], batch_size: int = 32, progress: bool = True
    ) -> np.ndarray:
        """Embeds pictures.

        Args:
            given: File names of pictures in any common format, bytes of JPEG, PNG, GIF or BMP
                files, uint8 arrays `[H, W, 3]` (RGB) or `[H, W]` (grey), or a mix; one of them
                alone counts as a list of one.
            batch_size: Pictures embedded together.
            progress: Whether to show a progress bar where standard error is a terminal.

        Returns:
            `[N, D]` float32, a unit row per picture, in the order given.

        Raises:
            UserError: A picture cannot be read.
        """
        if isinstance(given, Picture) and getattr(given, "ndim", 3) < 4:
            given = [given]
        given = list(given)
        rows = np.empty([len(given), self.dimension], np.float32)
        bar = tqdm(total=len(given), unit="picture", disable=None if progress else True)
        with bar, ThreadPoolExecutor() as pool:
            for start in range(0, len(given), batch_size):
                names = given[start : start + batch_size]
                rows[start : start + len(names)] = self._batch(list(pool.map(_input, names)), names)
                bar.update(len(names))
        return rows

    def _batch(self, inputs: list[bytes | np.ndarray], names: Sequence[Picture]) -> np.ndarray:
        rows = np.empty([len(inputs), self.dimension], np.float32)
        groups = defaultdict(list)  # pictures which one call can take
        for i, picture in enumerate(inputs):
            groups[picture.shape if isinstance(picture, np.ndarray) else None].append(i)
        for shape, numbers in groups.items():
            group = [inputs[i] for i in numbers]
            if shape is None:
                rows[numbers] = self._files(group, [names[i] for i in numbers])
            else:
                rows[numbers] = self._arrays(np.stack(group))
        return rows

    def _arrays(self, images: np.ndarray) -> np.ndarray:
        return self._default(tf.constant(images))[UNIT].numpy()

    def _files(self, files: list[bytes], names: list[Picture]) -> np.ndarray:
        try:
            if self._encoded is not None:
                return self._encoded(tf.constant(files))[UNIT].numpy()
            decode = tf.io.decode_image
            images = [decode(f, channels=3, expand_animations=False).numpy() for f in files]
            return np.concatenate([self._arrays(image[None]) for image in images])
        except tf.errors.InvalidArgumentError as error:
            if len(files) > 1:  # find the culprit
                pairs = zip(files, names, strict=True)
                return np.concatenate([self._files([f], [n]) for f, n in pairs])
            name = "bytes" if isinstance(names[0], bytes) else names[0]
            raise UserError(
                f"{name} is not a picture that can be decoded: give JPEG, PNG, GIF or BMP"
            ) from error


def _input(picture: Picture) -> bytes | np.ndarray:
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, str | os.PathLike):
        path = Path(picture)
        try:
            return pictures.load(path.parent, path.name)
        except pictures.BrokenPictureError as error:
            raise UserError(f"{picture} cannot be read as a picture ({error})") from None
    array = np.asarray(picture)
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=-1)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3 or 0 in array.shape:
        raise UserError(
            f"a picture is {array.dtype} of shape {np.asarray(picture).shape}: "
            "give uint8 [H, W, 3] or [H, W]"
        )
    return array
