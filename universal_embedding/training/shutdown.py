"""Graceful shutdown on SIGTERM, SIGHUP (the connection to the terminal ends) and Ctrl-C."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

import tensorflow as tf

from universal_embedding.models.distribution import all_reduce_max, num_hosts_and_id, polled


class Interrupted(BaseException):
    """Raised by a signal inside `GracefulShutdown.interruptible`, or to leave the training loop."""


class GracefulShutdown:
    """Records the first SIGTERM, SIGHUP or SIGINT instead of ending; the second interrupts.

    Use it as a context manager, in the main thread:

        with GracefulShutdown() as shutdown:
            while shutdown.signal is None:
                ...

    Attributes:
        signal: The signal that was received, or None.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._is_interruptible = False
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "GracefulShutdown":
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            self._handlers[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def interruptible(self, strategy: tf.distribute.Strategy) -> Iterator[None]:
        """Raises `Interrupted` on a signal inside it: for long work that changes no state.

        On several hosts, all raise it at the next `poll`, whichever of them was signaled.
        """
        if num_hosts_and_id(strategy)[0] > 1:
            with polled(lambda: self._stop_together(strategy)):
                yield
            return
        self._is_interruptible = True
        try:
            if self.signal is not None:
                raise Interrupted
            yield
        finally:
            self._is_interruptible = False

    def _stop_together(self, strategy: tf.distribute.Strategy) -> None:
        (number,) = all_reduce_max([self.signal or 0], strategy)
        if number:
            self.signal = signal.Signals(int(number))
            raise Interrupted

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
        if self._is_interruptible:
            raise Interrupted
