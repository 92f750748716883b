"""SIGTERM and Ctrl-C as a wish to stop at the next good moment."""

import signal
from types import FrameType


class Preemption:
    """Within `with Preemption() as stop:`, the first signal sets `stop.by`, a second interrupts.

    Attributes:
        by: The signal that came, or None.
    """

    by: signal.Signals | None = None

    def __enter__(self) -> "Preemption":
        handled = (signal.SIGTERM, signal.SIGINT)
        self._before = {number: signal.signal(number, self._note) for number in handled}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.by is not None:
            raise KeyboardInterrupt
        self.by = signal.Signals(number)
