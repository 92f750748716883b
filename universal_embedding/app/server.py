"""Serves an index as a web page and a JSON API, which page/api.txt describes."""

import contextlib
import ipaddress
import logging as python_logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from pathlib import Path
from socket import SOCK_STREAM, create_server, getaddrinfo, getfqdn, gethostname
from socket import socket as Socket

import PIL
import uvicorn
from absl import logging
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from universal_embedding.app.connections import BoundedProtocol, LogLimit
from universal_embedding.app.pages import Handlers, ServerLimits
from universal_embedding.app.searchable import SearchableIndex
from universal_embedding.errors import UserError, printable

PAGE = Path(__file__).parent / "page"
SAFE_PILLOW = 13  # CVE-2026-96639 and CVE-2026-112403 are open before
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
    index: SearchableIndex,
    limits: ServerLimits,
    max_distance: float | None,
    hosts: Collection[str],
    allow_addresses: bool = False,
) -> Starlette:
    """Makes the web application.

    Args:
        index: The index to search.
        limits: Per-request resource limits.
        max_distance: Matches farther than this are left out, unless a request sets its own.
        hosts: Host names that it answers to (against DNS rebinding); `("*",)` for any.
        allow_addresses: Answer to every IP address as a host too; an address is not a name, so it
            cannot be rebound.
    """
    handlers = Handlers(index, limits, max_distance)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        del app
        yield
        handlers.close()

    routes = [
        Route("/", _send_file("index.html")),
        *(Route(f"/{name}", _send_file(name)) for name in ("app.js", "crop.js", "style.css")),
        Route("/api", _send_file("api.txt")),
        Route("/api/index", handlers.overview),
        Route("/api/search", handlers.search, methods=["GET", "POST"]),
        Route("/images/{index}", handlers.image),
    ]
    return Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[
            Middleware(_SafeHeaders),
            Middleware(_CheckSender, hosts=hosts, allow_addresses=allow_addresses),
        ],
        exception_handlers={HTTPException: _on_http_error, Exception: _on_error},
    )


def serve(
    index: SearchableIndex,
    host: str,
    port: int,
    limits: ServerLimits,
    max_distance: float | None,
    allowed_hosts: Sequence[str] = (),
) -> None:
    """Serves until interrupted.

    Args:
        index: The index to search.
        host: Address or name to listen on.
        port: Port; 0 takes a free one.
        limits: Per-request resource limits.
        max_distance: Matches farther than this are left out, unless a request sets its own.
        allowed_hosts: Further host names that it answers to, such as that of a proxy.

    Raises:
        UserError: It cannot listen there.
    """
    if int(PIL.__version__.split(".")[0]) < SAFE_PILLOW:
        logging.warning(
            "Pillow %s has known holes in its decoders: pip install 'universal-embedding[serve]'",
            PIL.__version__,
        )
    socket = _listen(host, port)
    address = socket.getsockname()[0].split("%")[0]
    local = ipaddress.ip_address(address).is_loopback
    hosts = {*LOOPBACK, address, *allowed_hosts}
    if not local:
        hosts |= {gethostname(), getfqdn()}
        logging.warning(
            "listening on %s: everyone who can reach it sees the images of %s", address, index.title
        )
    app = make_app(index, limits, max_distance, hosts, allow_addresses=not local)
    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=5,
        backlog=64,  # asyncio accepts as many at once, beyond the bound on connections
    )
    for name in ("uvicorn.error", "asyncio"):
        python_logging.getLogger(name).addFilter(LogLimit())
    name = f"[{address}]" if ":" in address else address
    print(
        f"{len(index)} images of {printable(index.title)} at "
        f"http://{name}:{socket.getsockname()[1]}",
        flush=True,
    )
    uvicorn.Server(config).run(sockets=[socket])


def _listen(host: str, port: int) -> Socket:
    if not host:
        raise UserError("--host is empty: give an address, such as 127.0.0.1 or 0.0.0.0")
    try:
        family, *_ = getaddrinfo(host, port, type=SOCK_STREAM)[0]
        return create_server((host, port), family=family, backlog=64)
    except (OSError, UnicodeError) as error:  # UnicodeError: of a name that IDNA refuses
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"cannot listen on --host={host} --port={port} ({reason}); choose another"
        ) from None


class _CheckSender:
    """Refuses requests to foreign host names, and those that pages of other sites make."""

    def __init__(self, app: ASGIApp, hosts: Collection[str], allow_addresses: bool) -> None:
        self.app, self.allow_addresses = app, allow_addresses
        self.hosts = {host.lower().strip("[]") for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            refusal = self._refusal(scope)
            if refusal is not None:
                await refusal(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_own(hosts[0]):
            return JSONResponse({"error": "unknown host: see --allowed_hosts"}, 400)
        site = headers.get("sec-fetch-site", "none")
        is_page = scope["method"] == "GET" and scope["path"] == "/"  # a link to it does no harm
        origin = headers.get("origin")
        is_foreign = origin is not None and origin.partition("://")[2] != hosts[0]
        if is_foreign or (site not in ("none", "same-origin") and not is_page):
            return JSONResponse({"error": "requests of other sites are refused"}, 403)
        return None

    def _is_own(self, host: str) -> bool:
        match = re.fullmatch(r"(\[[0-9a-f:.]+\]|[^\[\]:@/]+)(:[0-9]{1,5})?", host.lower())
        if match is None:
            return False
        name = match[1].strip("[]")
        if "*" in self.hosts or name in self.hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.allow_addresses


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
