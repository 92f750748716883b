"""Request handlers: searches, images and an overview of the index."""

import asyncio
import functools
import io
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from universal_embedding.app.image_index import ImageIndex, SearchHit
from universal_embedding.app.requests import SearchParams, parse_params, read_body
from universal_embedding.datasets.image_files import MAX_PIXELS, read_image
from universal_embedding.errors import UserError

IMAGE_SIZES = {"thumbnail": 320, "large": 1024}  # longest side in pixels
NUM_EXAMPLES = 20


@dataclass(frozen=True)
class ServerLimits:
    """Per-request resource limits.

    Attributes:
        upload_bytes: Maximum size of an uploaded image.
        max_pixels: Maximum width x height of an image, checked before it is decoded.
        max_uploads: Uploads received or waiting at once; more wait unread.
        num_workers: Images decoded and searched at once.
        upload_seconds: Maximum time of an upload.
    """

    upload_bytes: int = 16 << 20
    max_pixels: int = MAX_PIXELS
    max_uploads: int = 32
    num_workers: int = 2
    upload_seconds: float = 30


class Handlers:
    """The request handlers of one index.

    Args:
        index: The index to search.
        limits: Per-request resource limits.
        max_distance: Matches farther than this are left out, unless a request sets its own.
    """

    def __init__(self, index: ImageIndex, limits: ServerLimits, max_distance: float | None) -> None:
        self.index, self.limits, self.max_distance = index, limits, max_distance
        self.root = index.files.images_dir.resolve()
        names, sizes = np.unique(index.categories, return_counts=True)
        self._category_sizes = dict(zip(names.tolist(), sizes.tolist(), strict=True))
        self._uploads = asyncio.Semaphore(limits.max_uploads)
        self._search_pool = ThreadPoolExecutor(limits.num_workers, "search")
        self._image_pool = ThreadPoolExecutor(limits.num_workers, "images")
        self._render_cached = functools.lru_cache(2000)(self._render)

    async def overview(self, request: Request) -> Response:
        """Sends the size, categories and limits of the index, and some examples."""
        category = request.query_params.get("category")
        members = np.flatnonzero((self.index.categories == category) | (category is None))
        examples = members[:: max(1, len(members) // NUM_EXAMPLES)][:NUM_EXAMPLES]
        return JSONResponse(
            {
                "name": self.root.name,
                "num_images": len(self.index),
                "categories": self._category_sizes,
                "is_exact": self.index.is_exact,
                "max_distance": self.max_distance,
                "max_upload_bytes": self.limits.upload_bytes,
                "examples": [self._describe(int(index)) for index in examples],
            }
        )

    async def search(self, request: Request) -> Response:
        """Sends the nearest matches of an uploaded image, or of one of the index."""
        params = parse_params(request.query_params, len(self.index), self.max_distance)
        if (request.method == "POST") == (params.image is not None):
            raise HTTPException(400, "POST the bytes of an image, or GET with image=INDEX")
        async with self._uploads:
            upload = None
            if request.method == "POST":
                upload = await read_body(
                    request, self.limits.upload_bytes, self.limits.upload_seconds
                )
            start = time.perf_counter()
            hits = await self._run(self._search_pool, self._search, upload, params)
        return JSONResponse(
            {
                "metric": params.metric,
                "max_distance": params.max_distance,
                "query": self._describe(params.image) if params.image is not None else None,
                "matches": [self._describe(h.index) | {"distance": h.distance} for h in hits],
                "milliseconds": round(1000 * (time.perf_counter() - start), 1),
            }
        )

    async def image(self, request: Request) -> Response:
        """Sends one image of the index as JPEG."""
        index, size = request.path_params["index"], request.query_params.get("size", "large")
        if index >= len(self.index) or size not in IMAGE_SIZES:
            raise HTTPException(404, "there is no such image")
        content = await self._run(self._image_pool, self._render_cached, index, IMAGE_SIZES[size])
        return Response(content, media_type="image/jpeg", headers={"cache-control": "no-cache"})

    def _search(self, upload: bytes | None, params: SearchParams) -> list[SearchHit]:
        query: int | np.ndarray
        if upload is None and params.image is not None and not params.crop:
            query = params.image
        else:
            source = upload if params.image is None else self._path(params.image)
            assert source is not None  # `search` refuses a request without an image
            query = self.index.encode(read_image(source, params.crop, self.limits.max_pixels))
        return self.index.search(
            query, params.k, params.metric, params.category, params.max_distance
        )

    def _render(self, index: int, longest_side: int) -> bytes:
        # Encoded again: no metadata such as a location leaves the server.
        image = Image.fromarray(read_image(self._path(index), max_pixels=self.limits.max_pixels))
        image.thumbnail((longest_side, longest_side))
        file = io.BytesIO()
        image.save(file, "JPEG", quality=85)
        return file.getvalue()

    def _path(self, index: int) -> Path:
        path = (self.root / self.index.names[index]).resolve()
        if not path.is_relative_to(self.root):  # replaced by a link since it was indexed
            raise HTTPException(404, "there is no such image")
        return path

    def _describe(self, index: int) -> dict:
        return {
            "image": index,
            "name": self.index.names[index],
            "category": str(self.index.categories[index]),
            "url": f"/images/{index}",
        }

    async def _run(self, pool: ThreadPoolExecutor, function: Callable, *args: object) -> Any:
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, function, *args)
        except UserError as error:
            raise HTTPException(422, str(error)) from None
