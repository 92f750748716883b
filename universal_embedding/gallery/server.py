"""The gallery as a web page and a JSON endpoint; page/api.txt describes the latter."""

import asyncio
import functools
import io
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import uvicorn
from absl import logging
from PIL import Image
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from universal_embedding.errors import UserError
from universal_embedding.gallery import requests
from universal_embedding.gallery.pictures import LONGEST_SIDE, MAX_PIXELS, read
from universal_embedding.gallery.search import Gallery, Match

PAGE = Path(__file__).parent / "page"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
SIDES = {"thumbnail": 320, "large": LONGEST_SIDE}
EXAMPLES = 20
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


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


def application(
    gallery: Gallery, limits: Limits, max_distance: float | None, hosts: tuple[str, ...]
) -> Starlette:
    """The web application.

    Args:
        gallery: What is searched.
        limits: What a visitor may cost.
        max_distance: Matches farther away are left out, unless a search names another distance.
        hosts: Names under which it answers (against DNS rebinding); `("*",)` for any.
    """
    pages = _Pages(gallery, limits, max_distance)
    routes = [
        Route("/", _file("index.html")),
        *(Route(f"/{name}", _file(name)) for name in ("app.js", "crop.js", "style.css")),
        Route("/api", _file("api.txt")),
        Route("/api/gallery", pages.overview),
        Route("/api/search", pages.search, methods=["GET", "POST"]),
        Route("/pictures/{number:int}", pages.picture),
    ]
    return Starlette(
        routes=routes,
        middleware=[
            Middleware(_SafeHeaders),
            Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False),
        ],
        exception_handlers={HTTPException: _refused, Exception: _failed},
    )


def serve(
    gallery: Gallery, host: str, port: int, limits: Limits, max_distance: float | None
) -> None:
    """Serves until interrupted."""
    local = host in LOOPBACK
    if not local:
        logging.warning("listening on %s: everyone who reaches it sees the gallery", host)
    app = application(gallery, limits, max_distance, (*LOOPBACK, "[::1]") if local else ("*",))
    config = uvicorn.Config(app, host, port, log_level="warning", server_header=False, backlog=512)
    server = uvicorn.Server(config)
    try:
        listening = config.bind_socket()
    except SystemExit:
        raise UserError(f"--port={port} of {host} is in use: name another") from None
    at = f"[{host}]" if ":" in host else host
    print(f"{len(gallery.index)} pictures at http://{at}:{listening.getsockname()[1]}", flush=True)
    server.run(sockets=[listening])


class _Pages:
    def __init__(self, gallery: Gallery, limits: Limits, max_distance: float | None) -> None:
        self.gallery, self.limits, self.max_distance = gallery, limits, max_distance
        self.root = gallery.index.gallery.resolve()
        self.uploads = asyncio.Semaphore(limits.uploads)
        self.pool = ThreadPoolExecutor(limits.workers, "search")
        self.pictures = ThreadPoolExecutor(limits.workers, "pictures")
        self.rendered = functools.lru_cache(2000)(self.render)

    async def overview(self, request: Request) -> Response:
        categories = self.gallery.categories
        names, sizes = np.unique(categories, return_counts=True)
        wished = request.query_params.get("category")
        numbers = np.flatnonzero((categories == wished) | (wished is None))
        some = np.unique(np.linspace(0, max(len(numbers) - 1, 0), EXAMPLES).astype(int))
        return JSONResponse(
            {
                "gallery": self.root.name,
                "pictures": len(categories),
                "categories": dict(zip(names.tolist(), sizes.tolist(), strict=True)),
                "exact": self.gallery.is_exact,
                "max_distance": self.max_distance,
                "max_upload_bytes": self.limits.upload,
                "examples": [self.described(int(n)) for n in numbers[some]] if len(numbers) else [],
            }
        )

    async def search(self, request: Request) -> Response:
        wishes = requests.wishes(request.query_params, len(self.gallery.index), self.max_distance)
        if (request.method == "POST") == (wishes.picture is not None):
            raise HTTPException(400, "POST the bytes of a picture, or GET with picture=NUMBER")
        async with self.uploads:
            sent = None
            if request.method == "POST":
                sent = await requests.body(request, self.limits.upload, self.limits.seconds)
            start = time.perf_counter()
            matches = await self.run(self.pool, self.find, sent, wishes)
        return JSONResponse(
            {
                "distance": wishes.distance,
                "max_distance": wishes.max_distance,
                "query": self.described(wishes.picture) if sent is None else None,
                "matches": [self.described(m.number) | {"distance": m.distance} for m in matches],
                "milliseconds": round(1000 * (time.perf_counter() - start), 1),
            }
        )

    async def picture(self, request: Request) -> Response:
        number, size = request.path_params["number"], request.query_params.get("size", "large")
        if number >= len(self.gallery.index) or size not in SIDES:
            raise HTTPException(404, "there is no such picture")
        content = await self.run(self.pictures, self.rendered, number, SIDES[size])
        return Response(content, media_type="image/jpeg", headers={"cache-control": "no-cache"})

    def find(self, sent: bytes | None, wishes: requests.Wishes) -> list[Match]:
        query: int | np.ndarray = wishes.picture if sent is None else -1
        if sent is not None or wishes.crop:
            source = self.path(wishes.picture) if sent is None else sent
            query = self.gallery.embed(read(source, wishes.crop, self.limits.pixels))
        return self.gallery.nearest(
            query, wishes.k, wishes.distance, wishes.category, wishes.max_distance
        )

    def render(self, number: int, side: int) -> bytes:
        # Written anew: no metadata such as a place of recording leaves the house.
        picture = Image.fromarray(read(self.path(number), longest_side=side))
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=85)
        return file.getvalue()

    def path(self, number: int) -> Path:
        path = (self.root / self.gallery.index.names[number]).resolve()
        if not path.is_relative_to(self.root):  # a link put there since it was indexed
            raise HTTPException(404, "there is no such picture")
        return path

    def described(self, number: int) -> dict:
        return {
            "picture": number,
            "name": self.gallery.index.names[number],
            "category": str(self.gallery.categories[number]),
            "url": f"/pictures/{number}",
        }

    async def run(self, pool: ThreadPoolExecutor, function: Callable, *args: object) -> object:
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, function, *args)
        except UserError as error:
            raise HTTPException(422, str(error)) from None


class _SafeHeaders:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self.app(scope, receive, send_safely)


def _file(name: str) -> Callable[[Request], Awaitable[Response]]:
    async def get(request: Request) -> Response:
        del request
        return FileResponse(PAGE / name, headers={"cache-control": "no-cache"})

    return get


async def _refused(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code)


async def _failed(request: Request, error: Exception) -> Response:
    del request, error  # uvicorn writes it to the log; the visitor learns nothing of it
    return JSONResponse({"error": "something went wrong here; try again"}, 500, HEADERS)
