"""Serves an index as a web page and a JSON API, which page/api.txt describes."""

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

from universal_embedding.app.image_index import ImageIndex
from universal_embedding.app.pages import Handlers, ServerLimits
from universal_embedding.errors import UserError

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


def make_app(
    index: ImageIndex, limits: ServerLimits, max_distance: float | None, hosts: tuple[str, ...]
) -> Starlette:
    """Makes the web application.

    Args:
        index: The index to search.
        limits: Per-request resource limits.
        max_distance: Matches farther than this are left out, unless a request sets its own.
        hosts: Host names that it answers to (against DNS rebinding); `("*",)` for any.
    """
    handlers = Handlers(index, limits, max_distance)
    routes = [
        Route("/", _send_file("index.html")),
        *(Route(f"/{name}", _send_file(name)) for name in ("app.js", "crop.js", "style.css")),
        Route("/api", _send_file("api.txt")),
        Route("/api/index", handlers.overview),
        Route("/api/search", handlers.search, methods=["GET", "POST"]),
        Route("/images/{index:int}", handlers.image),
    ]
    return Starlette(
        routes=routes,
        middleware=[
            Middleware(_SafeHeaders),
            Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False),
        ],
        exception_handlers={HTTPException: _on_http_error, Exception: _on_error},
    )


def serve(
    index: ImageIndex, host: str, port: int, limits: ServerLimits, max_distance: float | None
) -> None:
    """Serves until interrupted."""
    local = host in LOOPBACK
    if not local:
        logging.warning("listening on %s: everyone who can reach it sees the images", host)
    app = make_app(index, limits, max_distance, (*LOOPBACK, "[::1]") if local else ("*",))
    config = uvicorn.Config(app, host, port, log_level="warning", server_header=False, backlog=512)
    server = uvicorn.Server(config)
    try:
        socket = config.bind_socket()
    except SystemExit:
        raise UserError(f"--port={port} of {host} is in use; choose another") from None
    name = f"[{host}]" if ":" in host else host
    print(f"{len(index)} images at http://{name}:{socket.getsockname()[1]}", flush=True)
    server.run(sockets=[socket])


class _SafeHeaders:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self.app(scope, receive, send_safely)


def _send_file(name: str) -> Callable[[Request], Awaitable[Response]]:
    async def get(request: Request) -> Response:
        del request
        return FileResponse(PAGE / name, headers={"cache-control": "no-cache"})

    return get


async def _on_http_error(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code)


async def _on_error(request: Request, error: Exception) -> Response:
    del request, error  # uvicorn writes it to the log; the client learns nothing
    return JSONResponse({"error": "internal error; try again"}, 500, HEADERS)
