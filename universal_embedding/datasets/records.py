"""Prepared pictures, read back by number."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from universal_embedding.datasets.labels import Labels


class Records(Protocol):
    """One split of one domain: N pictures in a fixed order.

    Attributes:
        domain: The domain's key.
        split: `train`, `val`, `test`, `index` or `small_index`.
        labels: The class ids of each picture, as published.
        image_ids: `[N]` object array of str, paths relative to the picture folder.
    """

    domain: str
    split: str
    labels: Labels
    image_ids: np.ndarray

    def __len__(self) -> int: ...

    def read(self, numbers: Sequence[int]) -> list[bytes]:
        """The encoded pictures of these record numbers, in their order."""
        ...
