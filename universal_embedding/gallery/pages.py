"""What the server answers: searches, the gallery's pictures and what there is to search."""

import asyncio
import functools
import io
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from universal_embedding.errors import UserError
from universal_embedding.gallery import requests
from universal_embedding.gallery.pictures import LONGEST_SIDE, MAX_PIXELS, read
from universal_embedding.gallery.search import Gallery, Match

SIDES = {"thumbnail": 320, "large": LONGEST_SIDE}
EXAMPLES = 20


@dataclass(frozen=True)
class Limits:
    """What a visitor may cost.

    Attributes:
        upload: Bytes of a picture.
        pixels: Width x height of a picture; checked before it is decoded.
        uploads: Pictures received or waiting at once; more wait unread.
        workers: Pictures decoded and searched at once.
        seconds: Time a picture may take to arrive.
    """

    upload: int = 16 << 20
    pixels: int = MAX_PIXELS
    uploads: int = 32
    workers: int = 2
    seconds: float = 30


class Pages:
    """The pages of one gallery.

    Args:
        gallery: What is searched.
        limits: What a visitor may cost.
        max_distance: Matches farther away are left out, unless a search names another distance.
    """

    def __init__(self, gallery: Gallery, limits: Limits, max_distance: float | None) -> None:
        self.gallery, self.limits, self.max_distance = gallery, limits, max_distance
        self.root = gallery.index.gallery.resolve()
        names, sizes = np.unique(gallery.categories, return_counts=True)
        self._sizes = dict(zip(names.tolist(), sizes.tolist(), strict=True))
        self._uploads = asyncio.Semaphore(limits.uploads)
        self._pool = ThreadPoolExecutor(limits.workers, "search")
        self._pictures = ThreadPoolExecutor(limits.workers, "pictures")
        self._rendered = functools.lru_cache(2000)(self._render)

    async def overview(self, request: Request) -> Response:
        """What the gallery holds, and some examples."""
        categories = self.gallery.categories
        wished = request.query_params.get("category")
        numbers = np.flatnonzero((categories == wished) | (wished is None))
        some = numbers[:: max(1, len(numbers) // EXAMPLES)][:EXAMPLES]
        return JSONResponse(
            {
                "gallery": self.root.name,
                "pictures": len(categories),
                "categories": self._sizes,
                "exact": self.gallery.is_exact,
                "max_distance": self.max_distance,
                "max_upload_bytes": self.limits.upload,
                "examples": [self._described(int(number)) for number in some],
            }
        )

    async def search(self, request: Request) -> Response:
        """The nearest matches of a picture that is sent, or of one of the gallery."""
        wishes = requests.wishes(request.query_params, len(self.gallery.index), self.max_distance)
        if (request.method == "POST") == (wishes.picture is not None):
            raise HTTPException(400, "POST the bytes of a picture, or GET with picture=NUMBER")
        async with self._uploads:
            sent = None
            if request.method == "POST":
                sent = await requests.body(request, self.limits.upload, self.limits.seconds)
            start = time.perf_counter()
            matches = await self._run(self._pool, self._find, sent, wishes)
        return JSONResponse(
            {
                "distance": wishes.distance,
                "max_distance": wishes.max_distance,
                "query": self._described(wishes.picture) if sent is None else None,
                "matches": [self._described(m.number) | {"distance": m.distance} for m in matches],
                "milliseconds": round(1000 * (time.perf_counter() - start), 1),
            }
        )

    async def picture(self, request: Request) -> Response:
        """One gallery picture, by its number."""
        number, size = request.path_params["number"], request.query_params.get("size", "large")
        if number >= len(self.gallery.index) or size not in SIDES:
            raise HTTPException(404, "there is no such picture")
        content = await self._run(self._pictures, self._rendered, number, SIDES[size])
        return Response(content, media_type="image/jpeg", headers={"cache-control": "no-cache"})

    def _find(self, sent: bytes | None, wishes: requests.Wishes) -> list[Match]:
        query: int | np.ndarray = wishes.picture if sent is None else -1
        if sent is not None or wishes.crop:
            source = self._path(wishes.picture) if sent is None else sent
            query = self.gallery.embed(read(source, wishes.crop, self.limits.pixels))
        return self.gallery.nearest(
            query, wishes.k, wishes.distance, wishes.category, wishes.max_distance
        )

    def _render(self, number: int, side: int) -> bytes:
        # Written anew: no metadata such as a place of recording leaves the house.
        picture = Image.fromarray(read(self._path(number), longest_side=side))
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=85)
        return file.getvalue()

    def _path(self, number: int) -> Path:
        path = (self.root / self.gallery.index.names[number]).resolve()
        if not path.is_relative_to(self.root):  # a link put there since it was indexed
            raise HTTPException(404, "there is no such picture")
        return path

    def _described(self, number: int) -> dict:
        return {
            "picture": number,
            "name": self.gallery.index.names[number],
            "category": str(self.gallery.categories[number]),
            "url": f"/pictures/{number}",
        }

    async def _run(self, pool: ThreadPoolExecutor, function: Callable, *args: object) -> object:
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, function, *args)
        except UserError as error:
            raise HTTPException(422, str(error)) from None
