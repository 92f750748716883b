"""Bounds on connections, so that idle and slow clients cost nothing that others need."""

import asyncio
import ipaddress
import logging
import resource
import time
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 1000
MAX_PER_CLIENT = 32  # of one address that is not loopback
HEADER_SECONDS = 10.0
STALL_SECONDS = 20.0  # for a client that does not read its answer
SWEEP_SECONDS = 1.0
LOG_LINES_PER_MINUTE = 20

_open: dict["BoundedProtocol", None] = {}  # oldest first


def max_connections() -> int:
    """Connections that leave file descriptors for everything else."""
    soft_limit, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + 256
    if soft_limit < wanted <= hard_limit or hard_limit == resource.RLIM_INFINITY:
        soft_limit = max(soft_limit, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft_limit, hard_limit))
    return max(8, min(MAX_CONNECTIONS, soft_limit - 256))


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 where a connection over a bound replaces the oldest one that is not being served.

    A client that sends a whole request at once is answered, however many others are idle.
    """

    def connection_made(self, transport: Any) -> None:
        """Makes room for the connection, and starts the clock of its first request."""
        super().connection_made(transport)
        self._progress = time.monotonic()
        self._unread = 0
        _open[self] = None
        address = self.client_address()
        if address:
            _make_room([p for p in _open if p.client_address() == address], MAX_PER_CLIENT)
        _make_room(list(_open), max_connections())
        if len(_open) == 1:
            self.loop.call_later(SWEEP_SECONDS, _sweep, self.loop)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection."""
        _open.pop(self, None)
        super().connection_lost(exc)

    def client_address(self) -> str:
        """The client's address; empty for loopback, where one machine is many clients."""
        host = self.client[0] if self.client else ""
        try:
            return "" if ipaddress.ip_address(host).is_loopback else host
        except ValueError:
            return ""

    @property
    def was_served(self) -> bool:
        """Whether it has had an answer."""
        return self.cycle is not None and self.cycle.response_complete

    @property
    def is_waiting(self) -> bool:
        """Whether it has no whole request that is being answered."""
        return self.cycle is None or self.cycle.response_complete or self.cycle.more_body

    def expire(self, now: float) -> None:
        """Closes the connection if its client was too slow."""
        unread = self.transport.get_write_buffer_size()
        is_served = self.cycle is not None and not self.cycle.response_complete
        if (is_served and not unread) or unread != self._unread:
            self._progress = now
        self._unread = unread
        if now - self._progress > (STALL_SECONDS if unread else HEADER_SECONDS):
            self.transport.abort()


def _make_room(protocols: list[BoundedProtocol], limit: int) -> None:
    """Closes the oldest waiting connections, or the newest if no other one is waiting.

    Those that were never served go first: a visitor's connection waits for the next click.
    """
    protocols = [p for p in protocols if not p.transport.is_closing()]
    excess = len(protocols) - limit
    if excess > 0:
        waiting = [p for p in protocols[:-1] if p.is_waiting]
        waiting.sort(key=lambda protocol: protocol.was_served)
        for protocol in (waiting or protocols[-1:])[:excess]:
            protocol.transport.abort()


def _sweep(loop: asyncio.AbstractEventLoop) -> None:
    now = time.monotonic()
    for protocol in list(_open):
        protocol.expire(now)
    if _open:
        loop.call_later(SWEEP_SECONDS, _sweep, loop)


class LogLimit(logging.Filter):
    """Lets a few lines a minute through, so that clients cannot fill the disk with the log."""

    def __init__(self) -> None:
        super().__init__()
        self._minute, self._lines = 0, 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write the record."""
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            if self._lines > LOG_LINES_PER_MINUTE:
                dropped = self._lines - LOG_LINES_PER_MINUTE
                record.msg = f"{record.getMessage()} ({dropped} earlier lines left out)"
                record.args = ()
            self._minute, self._lines = minute, 0
        self._lines += 1
        return self._lines <= LOG_LINES_PER_MINUTE
