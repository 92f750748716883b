"""SIGTERM and Ctrl-C as a wish to stop at the next good moment."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class Stopped(BaseException):
    """Raised by a signal where waiting for the next good moment would take too long."""


class Preemption:
    """Within `with Preemption() as stop:`, the first signal sets `stop.by`, a second interrupts.

    Attributes:
        by: The signal that came, or None.
    """

    by: signal.Signals | None = None
    _at_once = False

    def __enter__(self) -> "Preemption":
        handled = (signal.SIGTERM, signal.SIGINT)
        self._before = {number: signal.signal(number, self._note) for number in handled}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def at_once(self, allowed: bool = True) -> Iterator[None]:
        """Within it, for long work that changes no state, a signal raises `Stopped`."""
        self._at_once = allowed
        try:
            if allowed and self.by is not None:
                raise Stopped
            yield
        finally:
            self._at_once = False

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.by is not None:
            raise KeyboardInterrupt
        self.by = signal.Signals(number)
        if self._at_once:
            raise Stopped
