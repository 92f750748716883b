"""Request handlers: searches, images and an overview of the index."""

import asyncio
import io
import re
import threading
import time
from collections import OrderedDict
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

from universal_embedding.app.decoding import DecodePool
from universal_embedding.app.requests import SearchParams, Uploads, parse_params
from universal_embedding.app.searchable import SearchableIndex, SearchHit
from universal_embedding.datasets.image_files import crop_pixels
from universal_embedding.datasets.image_limits import MAX_PIXELS, CorruptImageError, read_file
from universal_embedding.errors import UserError

IMAGE_SIZES = {"thumbnail": 320, "large": 1024}  # longest side in pixels
NUM_EXAMPLES = 20
NUM_THREADS = 256


@dataclass(frozen=True)
class ServerLimits:
    """Per-request resource limits.

    Attributes:
        upload_bytes: Maximum size of an uploaded image.
        max_pixels: Maximum width x height of an image, checked before it is decoded.
        bytes_in_flight: Maximum size of all uploads that are received or decoded.
        num_workers: Processes that decode uploads; another one decodes images of the index.
        cache_bytes: Maximum size of all cached JPEGs of images of the index.
    """

    upload_bytes: int = 16 << 20
    max_pixels: int = 25_000_000
    bytes_in_flight: int = 128 << 20
    num_workers: int = 2
    cache_bytes: int = 128 << 20


class Handlers:
    """The request handlers of one index.

    Args:
        index: The index to search.
        limits: Per-request resource limits.
        max_distance: Matches farther than this are left out, unless a request sets its own.
    """

    def __init__(
        self, index: SearchableIndex, limits: ServerLimits, max_distance: float | None
    ) -> None:
        self.index, self.limits, self.max_distance = index, limits, max_distance
        self._category_sizes = index.category_sizes
        self._uploads = Uploads(limits.upload_bytes, limits.bytes_in_flight)
        self._upload_decoder = DecodePool(limits.num_workers, limits.max_pixels)
        self._image_decoder = DecodePool(1, max(limits.max_pixels, MAX_PIXELS))
        # Threads only wait for a worker process.
        self._upload_threads = ThreadPoolExecutor(NUM_THREADS, "upload")
        self._image_threads = ThreadPoolExecutor(NUM_THREADS, "image")
        self._rendered: OrderedDict[tuple, bytes] = OrderedDict()
        self._rendered_lock = threading.Lock()

    def close(self) -> None:
        """Ends the worker processes."""
        self._upload_decoder.close()
        self._image_decoder.close()

    async def overview(self, request: Request) -> Response:
        """Sends the size, categories and limits of the index, and some examples."""
        category = request.query_params.get("category")
        examples = self.index.find_examples(category, NUM_EXAMPLES)
        return JSONResponse(
            {
                "name": self.index.title,
                "num_images": len(self.index),
                "categories": self._category_sizes,
                "is_exact": self.index.is_exact,
                "max_distance": self.max_distance,
                "max_upload_bytes": self.limits.upload_bytes,
                "examples": [self._describe(index) for index in examples],
            }
        )

    async def search(self, request: Request) -> Response:
        """Sends the nearest matches of an uploaded image, or of one of the index."""
        params = parse_params(request.query_params, len(self.index), self.max_distance)
        if (request.method == "POST") == (params.image is not None):
            raise HTTPException(400, "POST the bytes of an image, or GET with image=INDEX")
        if request.method == "POST":
            async with self._uploads.receive(request) as body:
                start = time.perf_counter()
                hits = await self._run(self._upload_threads, self._search_upload, body, params)
        else:
            start = time.perf_counter()
            hits = await self._run(self._image_threads, self._search_image, params)
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
        text, size = request.path_params["index"], request.query_params.get("size", "large")
        index = int(text) if re.fullmatch("[0-9]{1,12}", text) else len(self.index)
        if index >= len(self.index) or size not in IMAGE_SIZES:
            raise HTTPException(404, "there is no such image")
        content = await self._run(self._image_threads, self._render, index, IMAGE_SIZES[size])
        return Response(content, media_type="image/jpeg", headers={"cache-control": "no-cache"})

    def _search_upload(self, body: bytes, params: SearchParams) -> list[SearchHit]:
        pixels = self._upload_decoder.decode(body)
        return self._search(self.index.encode(crop_pixels(pixels, params.crop)), params)

    def _search_image(self, params: SearchParams) -> list[SearchHit]:
        assert params.image is not None  # `search` refuses a request without an image
        if not params.crop:
            return self._search(params.image, params)
        pixels = self._image_decoder.decode(read_file(self._path(params.image)))
        return self._search(self.index.encode(crop_pixels(pixels, params.crop)), params)

    def _search(self, query: int | np.ndarray, params: SearchParams) -> list[SearchHit]:
        return self.index.search(
            query, params.k, params.metric, params.category, params.max_distance
        )

    def _render(self, index: int, longest_side: int) -> bytes:
        """JPEG of an image; encoded again, so that no metadata such as a location leaves."""
        path = self._path(index)
        try:
            status = path.stat()
        except OSError:
            raise CorruptImageError("the file is missing") from None
        key = index, longest_side, status.st_size, status.st_mtime_ns
        with self._rendered_lock:
            if key in self._rendered:
                self._rendered.move_to_end(key)
                return self._rendered[key]
        image = Image.fromarray(self._image_decoder.decode(read_file(path)))
        image.thumbnail((longest_side, longest_side))
        file = io.BytesIO()
        image.save(file, "JPEG", quality=85)
        with self._rendered_lock:
            self._rendered[key] = file.getvalue()
            while sum(map(len, self._rendered.values())) > self.limits.cache_bytes:
                self._rendered.popitem(last=False)
        return file.getvalue()

    def _path(self, index: int) -> Path:
        path = self.index.image_path(index)
        if path is None:
            raise HTTPException(404, "there is no such image")
        return path

    def _describe(self, index: int) -> dict:
        hit = self.index.hit(index, 0)
        has_file = self.index.image_path(index) is not None
        return {
            "image": index,
            "name": hit.name,
            "category": hit.category,
            "url": f"/images/{index}" if has_file else None,
        }

    async def _run(self, pool: ThreadPoolExecutor, function: Callable, *args: object) -> Any:
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, function, *args)
        except UserError as error:
            raise HTTPException(422, str(error)) from None
