"""The gallery as a web page and a JSON endpoint; page/api.txt describes the latter."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import uvicorn
from absl import logging
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
from universal_embedding.gallery.pages import Limits, Pages
from universal_embedding.gallery.search import Gallery

PAGE = Path(__file__).parent / "page"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


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
    pages = Pages(gallery, limits, max_distance)
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
