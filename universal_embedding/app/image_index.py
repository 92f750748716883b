"""A searchable index of a folder of images, bound to the model that embedded them."""

import dataclasses
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from universal_embedding.app.index_files import IndexFiles, find_category, open_model
from universal_embedding.app.live_search import LiveSearch, describe_search
from universal_embedding.app.searchable import (
    METRICS,
    ImageEncoder,
    Query,
    SearchHit,
    check_vector,
    distances,
    nearest_first,
    path_within,
)
from universal_embedding.errors import UserError

EXACT_SEARCH_BELOW = 500_000
MAX_NAMED_CATEGORIES = 20


class ImageIndex:
    """Embeddings of the images of a folder, ready to search; safe to use from several threads.

        index = ImageIndex.build(model, "photos/")
        index.save("photos.index")
        hits = index.search("query.jpg", k=5)

    `build`, `load` and `update_index` make one.

    Args:
        files: Names, embeddings and origin of the images.
        model: The model that embedded them; None to open it from `files.model` when it is needed.
        exact_search_below: Indexes smaller than this are searched exactly, others by ScaNN; by
            default `EXACT_SEARCH_BELOW`.

    Raises:
        UserError: The index was made by another model.
    """

    def __init__(
        self,
        files: IndexFiles,
        model: ImageEncoder | None = None,
        exact_search_below: int | None = None,
    ) -> None:
        if model is not None:
            files.check_model(model.fingerprint, model.name)
        self._model = model
        limit = EXACT_SEARCH_BELOW if exact_search_below is None else exact_search_below
        self._exact_search_below = limit
        self._lock = threading.Lock()  # one call of the model or of ScaNN uses all cores
        self._searches: dict[str | None, LiveSearch] = {}
        self._categories: np.ndarray | None = None
        self.files = files

    @classmethod
    def build(
        cls, model: ImageEncoder, images_dir: str | Path, batch_size: int = 32
    ) -> "ImageIndex":
        """Embeds the images of a folder; its sub-folders are the categories.

        Args:
            model: Embeds the images.
            images_dir: The folder.
            batch_size: Images per batch.

        Raises:
            UserError: The folder holds no images, or none that can be read.
        """
        index = cls(IndexFiles.empty(Path(images_dir), model), model)
        index.update(batch_size)
        return index

    @classmethod
    def load(
        cls,
        directory: str | Path,
        model: ImageEncoder | str | Path | None = None,
        exact_search_below: int | None = None,
    ) -> "ImageIndex":
        """Reads an index that `save` wrote.

        Args:
            directory: The index.
            model: The index's model, or where it is; by default where it was when it was made.
            exact_search_below: Use exact search below this many images; 500,000 by default.

        Raises:
            UserError: There is no index, or the model is not the one that made it.
        """
        files = IndexFiles.read(Path(directory))
        if isinstance(model, str | Path):
            model = open_model(model, files)
        return cls(files, model, exact_search_below)

    def save(self, directory: str | Path) -> None:
        """Writes the index; an older one is replaced only when all is written."""
        search = None
        if len(self) and not self.is_exact:  # else it is made faster than read
            with self._lock:
                search = self._search(None)
        self.files.write(Path(directory), search)

    def __len__(self) -> int:
        return len(self.files.names)

    def __repr__(self) -> str:
        return (
            f"ImageIndex({len(self)} images of {str(self.files.images_dir)!r}, "
            f"model={self.files.model!r})"
        )

    @property
    def names(self) -> list[str]:
        """Paths of the images, relative to their folder."""
        return self.files.names

    @property
    def categories(self) -> np.ndarray:
        """`[N]` object array of str: the first folder of each image's name."""
        if self._categories is None:  # not of dtype str, where the longest name sets the width
            self._categories = np.array([find_category(name) for name in self.names], dtype=object)
        return self._categories

    @property
    def embeddings(self) -> np.ndarray:
        """`[N, D]` float32, unit rows."""
        return self.files.embeddings

    @property
    def corrupt(self) -> dict[str, str]:
        """Reasons by name, of images that could not be embedded."""
        return self.files.corrupt

    @property
    def is_exact(self) -> bool:
        """Whether the search of all images is exact."""
        return len(self) < self._exact_search_below

    @property
    def model(self) -> ImageEncoder:
        """The model; opened when it is first needed.

        Raises:
            UserError: It is not where it was, or is another one now.
        """
        if self._model is None:
            model = open_model(self.files.model, self.files)
            self.files.check_model(model.fingerprint, model.name)
            self._model = model
        return self._model

    def update(self, batch_size: int = 32, save_to: Path | None = None) -> Any:
        """Embeds what is new or changed in the folder and drops what is gone.

        Args:
            batch_size: Images per batch.
            save_to: Save there now and then, so that an interrupted call loses little.

        Returns:
            An `IndexUpdate` with the counts.

        Raises:
            UserError: The folder holds no images, or none that can be read.
        """
        from universal_embedding.app.index_update import update_files

        with self._lock:
            self._load_search()  # before `save_to` replaces its files
        files, update = update_files(self.files, self.model, batch_size, save_to)
        self._set_files(files, update.changed_names)
        return update

    def add(self, names: Sequence[str | Path], batch_size: int = 32) -> None:
        """Embeds images of the folder and adds them, or replaces those of the same name.

        Args:
            names: Paths within the folder of the images, or relative to it.
            batch_size: Images per batch.

        Raises:
            UserError: A path is outside the folder, or an image cannot be read.
        """
        from universal_embedding.app.index_update import embed_named

        relative = [self.files.relative_name(name) for name in names]
        files, corrupt = embed_named(self.files, self.model, relative, batch_size)
        if corrupt:
            name, reason = next(iter(corrupt.items()))
            raise UserError(f"{name} cannot be added: {reason}")
        self._set_files(files, set(relative))

    def remove(self, names: Sequence[str | Path]) -> None:
        """Drops images from the index; their files stay.

        Raises:
            UserError: The index has no such image.
        """
        relative = {self.files.relative_name(name) for name in names}
        unknown = relative - set(self.names)
        if unknown:
            raise UserError(f"{min(unknown)} is not in the index of {self.files.images_dir}")
        self._set_files(self.files.without(relative), relative)

    def encode(self, image: Query) -> np.ndarray:
        """Embeds one image, `[D]` float32; one call at a time."""
        from universal_embedding.datasets.image_files import read_image

        pixels = read_image(image)  # type: ignore[arg-type]
        with self._lock:
            return self.model.encode([pixels], batch_size=1, show_progress_bar=False)[0]

    def search(
        self,
        query: Query,
        k: int = 5,
        metric: str = "euclidean",
        category: str | None = None,
        max_distance: float | None = None,
    ) -> list[SearchHit]:
        """Finds the images nearest to a query, nearest first.

        Args:
            query: An image (path, bytes, PIL image, uint8 array), an embedding `[D]`, or the
                position of an image of the index, which is not among its own matches.
            k: Maximum number of matches.
            metric: `euclidean`, 0..2, or `cosine` (1 - cosine), 0..2. Their order is the same.
            category: Search only this category.
            max_distance: Leave out matches farther than this.

        Raises:
            UserError: The image cannot be read, or there is no such category or metric.
        """
        if metric not in METRICS:
            raise UserError(f"metric is {metric!r}; it must be one of {', '.join(METRICS)}")
        exclude = query if isinstance(query, int) else -1
        if isinstance(query, int):
            embedding = self.embeddings[query]
        elif isinstance(query, np.ndarray) and query.ndim == 1:
            embedding = check_vector(query, self.embeddings.shape[1])
        else:
            embedding = self.encode(query)
        with self._lock:
            found = self._search(category).query(embedding[None], min(k, len(self)), exclude)[0]
        found = found[found >= 0]
        found_distances = distances(self.embeddings[found], embedding, metric)
        return nearest_first(self, found, found_distances, max_distance)

    def hit(self, index: int, distance: float) -> SearchHit:
        """The match of an image of the index."""
        return SearchHit(index, self.names[index], find_category(self.names[index]), distance)

    def row(self, index: int) -> np.ndarray:
        """The embedding `[D]` float32 of an image of the index."""
        return self.embeddings[index]

    @property
    def title(self) -> str:
        """The name of the folder of the images."""
        return self.files.images_dir.resolve().name

    @property
    def category_sizes(self) -> dict[str, int]:
        """Number of images by category, sorted by category."""
        names, sizes = np.unique(self.categories, return_counts=True)
        return dict(zip(names.tolist(), sizes.tolist(), strict=True))

    def position(self, row: str) -> int:
        """The position of an image by its number, as text.

        Raises:
            UserError: There is none.
        """
        if row.isdecimal() and int(row) < len(self):
            return int(row)
        raise UserError(f"there is no image {row[:40]!r}; give a number, 0 to {len(self) - 1}")

    def find_examples(self, category: str | None, count: int) -> list[int]:
        """Positions of at most `count` images of a category, or of all, spread evenly."""
        members = np.flatnonzero((self.categories == category) | (category is None))
        return members[:: max(1, len(members) // count)][:count].tolist()

    def image_path(self, index: int) -> Path | None:
        """The file of an image; None if it was replaced by a link out of the folder."""
        return path_within(self.files.images_dir, self.names[index])

    def describe_approximation(self) -> str:
        """One line on the recall, start and speed of approximate search, measured here."""
        start = time.perf_counter()
        with self._lock:
            search = self._search(None)
        return describe_search(search, self.embeddings, time.perf_counter() - start)

    def _set_files(self, files: IndexFiles, changed: set[str]) -> None:
        """Takes another content, in which only the images `changed` differ."""
        with self._lock:
            self._load_search()
            search, self._searches = self._searches.get(None), {}
            was_exact, older = self.is_exact, self.files
            self.files, self._categories = dataclasses.replace(files, search_dir=None), None
            if search and files.names and self.is_exact == was_exact:
                search.change(~older.find(changed), files.find(changed), files.embeddings)
                self._searches[None] = search

    def _load_search(self) -> None:
        """Reads the search of all images, if it was saved with them and is not loaded yet."""
        saved = self.files.search_dir
        if saved is not None and None not in self._searches and not self.is_exact:
            try:
                self._searches[None] = LiveSearch.load(saved)
            except UserError as error:
                logging.warning("%s; it is built from the embeddings instead", error)

    def _search(self, category: str | None) -> LiveSearch:
        """The search of a category's images; None: of all."""
        if category is None:
            self._load_search()
        if category not in self._searches:
            members = np.arange(len(self))
            if category is not None:
                members = np.flatnonzero(self.categories == category)
            if not len(members):
                known = sorted(set(self.categories.tolist()))
                names = ", ".join(map(repr, known[:MAX_NAMED_CATEGORIES]))
                more = f" and {len(known) - MAX_NAMED_CATEGORIES} more"
                raise UserError(
                    f"there is no category {str(category)[:100]!r} in the index; it has {names}"
                    f"{more if len(known) > MAX_NAMED_CATEGORIES else ''}"
                )
            is_exact = len(members) < self._exact_search_below
            self._searches[category] = LiveSearch(self.embeddings, members, is_exact)
        return self._searches[category]
