"""A benchmark knows how much of the machine other programs take."""

import itertools
import subprocess
import sys
import time
from types import SimpleNamespace

import machine_load
import psutil
import pytest

from universal_embedding.errors import UserError


class FakeProcess:
    def __init__(self, *times, children=()):
        self.times, self.offspring = times, children

    def cpu_times(self):
        if not self.times:
            raise psutil.NoSuchProcess(1)
        return self.times

    def children(self, recursive):
        assert recursive
        return self.offspring


def fake_machine(monkeypatch, process, **times):
    names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest")
    values = {name: float(times.get(name, 0)) for name in names}
    cpu_times = type("Times", (SimpleNamespace,), {"__iter__": lambda self: iter(values.values())})
    monkeypatch.setattr(psutil, "cpu_times", lambda: cpu_times(**values))
    monkeypatch.setattr(psutil, "Process", lambda: process)


def test_clocks_tell_own_work_from_others(monkeypatch):
    # user, system, and both of children that have ended; one child ends while it is asked
    own = FakeProcess(5, 1, 2, 0.5, 99, children=[FakeProcess(3, 0, 0, 0), FakeProcess()])
    fake_machine(monkeypatch, own, user=20, guest=4, system=3, idle=60, iowait=10, steal=7)
    total, busy, used = machine_load.read_clocks()
    assert (total, busy, used) == (100, 30, 11.5)  # guests are in user already


def test_work_of_a_child_is_own_work():
    spin = "import time\nwhile time.process_time() < 0.4: pass\nprint(flush=True)\ninput()"
    _, _, before = machine_load.read_clocks()
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", spin], stdin=pipe, stdout=pipe) as child:
        child.stdout.readline()
        _, _, running = machine_load.read_clocks()
        child.communicate(b"\n")
    _, _, ended = machine_load.read_clocks()
    tick = 0.01  # each of a process's four times is cut to whole ticks
    assert running - before >= 0.4 - 4 * tick
    assert ended >= running - 4 * tick  # it counts on after its end


@pytest.mark.parametrize(
    ("clocks", "expected", "is_busy"),
    [
        # total, busy, own
        ([(0, 0, 0), (10, 1, 1), (20, 9, 9)], (0.0, 0.0), False),
        ([(0, 0, 0), (10, 5, 5), (20, 9, 5)], (0.0, 0.4), True),
        ([(0, 0, 0), (10, 3, 1), (20, 9, 7)], (0.2, 0.0), True),
    ],
)
def test_summary_of_samples(monkeypatch, clocks, expected, is_busy):
    values = iter(clocks)
    monkeypatch.setattr(machine_load, "read_clocks", lambda: next(values))
    load = machine_load.MachineLoad(seconds_before=0)
    load.start()
    load.stop()
    summary = load.summary()
    assert (summary["load"]["before"], summary["load"]["max"]) == pytest.approx(expected)
    assert summary["busy"] == is_busy


def test_every_interval_is_sampled(monkeypatch):
    shares = [0.0, 0.5, 0.0, 1.0, 0.25] + [0.0] * 10_000
    busy = itertools.accumulate(shares, initial=0.0)
    clocks = ((float(i), seconds, 0.0) for i, seconds in enumerate(busy))
    monkeypatch.setattr(machine_load, "read_clocks", lambda: next(clocks))
    load = machine_load.MachineLoad(seconds_before=0, seconds_per_sample=0.001)
    load.start()
    while len(load.samples) < 6:
        time.sleep(0.001)
    load.stop()
    assert [load.before, *load.samples[:5]] == shares[:6]
    assert load.summary()["load"]["max"] == 1.0
    assert load.summary()["busy"]


def test_busy_machine_is_refused_unless_allowed(monkeypatch):
    class Busy:
        before = 0.37

    monkeypatch.setattr(machine_load, "MachineLoad", Busy)
    with pytest.raises(UserError, match=r"other programs take 37% .*--allow_busy"):
        machine_load.watch(needs_idle=True, allow_busy=False)
    assert machine_load.watch(needs_idle=True, allow_busy=True).before == 0.37
    assert machine_load.watch(needs_idle=False, allow_busy=False).before == 0.37
