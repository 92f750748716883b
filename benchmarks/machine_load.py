"""CPU time that other programs take while a benchmark runs.

A share is the CPU time that processes other than the benchmark's own took, over all the CPU time
that the machine could have given: 0.5 on two cores is one core. Time that the hypervisor takes for
other machines counts as theirs.
"""

import contextlib
import threading
import time

import psutil

from universal_embedding.errors import UserError

BUSY_SHARE = 0.1  # above it a benchmark does not start, and one that runs is marked
SECONDS_BEFORE, SECONDS_PER_SAMPLE = 2.0, 5.0


class MachineLoad:
    """The shares taken by other programs, sampled by a thread while the benchmark runs.

    Attributes:
        before: Share in the seconds before the benchmark.
        samples: Shares of equal intervals since `start`, the last one shorter.
    """

    def __init__(self, seconds_before=SECONDS_BEFORE, seconds_per_sample=SECONDS_PER_SAMPLE):
        self.samples = []
        self._seconds_per_sample = seconds_per_sample
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._last = read_clocks()
        time.sleep(seconds_before)
        self.before = self._next_share()

    def start(self):
        self._thread.start()

    def stop(self):
        self._stop.set()
        self._thread.join()

    def summary(self):
        """The entries of the record: `load` and whether the machine was `busy`."""
        samples = self.samples or [self._next_share()]
        load = {"before": self.before, "mean": sum(samples) / len(samples), "max": max(samples)}
        busy = max(load["before"], load["max"]) > BUSY_SHARE
        return {"load": {name: round(share, 3) for name, share in load.items()}, "busy": busy}

    def _sample(self):
        stopped = False
        while not stopped:
            stopped = self._stop.wait(self._seconds_per_sample)
            self.samples.append(self._next_share())

    def _next_share(self):
        before, self._last = self._last, read_clocks()
        total, busy, own = (now - then for now, then in zip(self._last, before, strict=True))
        return max(0.0, busy - own) / total if total else 0.0


def read_clocks():
    """Seconds since the machine started: of all cores, those in use, and this program's own.

    A process's own are those of its children too, also of children that have ended.
    """
    times = psutil.cpu_times()
    guest = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # in user and nice
    total = sum(times) - guest
    idle = times.idle + getattr(times, "iowait", 0.0)
    own = 0.0
    process = psutil.Process()
    for member in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            own += sum(member.cpu_times()[:4])  # user, system, and both of ended children
    return total, total - idle, own


def watch(needs_idle, allow_busy):
    """The load before a benchmark, ready to `start`.

    Args:
        needs_idle: Whether the benchmark measures speed.
        allow_busy: Whether it may run, and be marked, on a busy machine.

    Raises:
        UserError: It needs an idle machine, and this one is busy.
    """
    load = MachineLoad()
    if needs_idle and not allow_busy and load.before > BUSY_SHARE:
        raise UserError(
            f"other programs take {load.before:.0%} of this machine's CPU time, and a speed is "
            f"measured below {BUSY_SHARE:.0%}: end them, or pass --allow_busy, which marks the "
            "result as busy"
        )
    return load
