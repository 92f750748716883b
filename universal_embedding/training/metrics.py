"""What a run says of itself: a progress bar, `metrics.jsonl` and TensorBoard events."""

import json
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm


class MetricWriter:
    """Writes numbers of a run as they come.

    A run that starts again at an earlier step takes back the rows after that step, so that
    `metrics.jsonl` reads as if it had never stopped.

    Args:
        workdir: The run's folder; None writes nothing (workers other than the chief).
        start: The step that the run starts from.
        total: The step that it ends at, for the bar.
        batch_size: Pictures per step, for the bar.
    """

    def __init__(self, workdir: Path | None, start: int, total: int, batch_size: int) -> None:
        self._batch_size, self._clock, self._step = batch_size, time.monotonic(), start
        self._bar = tqdm(
            total=total, initial=start, unit="step", disable=workdir is None, dynamic_ncols=True
        )
        self._file = self._events = None
        if workdir is not None:
            workdir.mkdir(parents=True, exist_ok=True)
            path = workdir / "metrics.jsonl"
            _drop_rows_after(path, start)
            self._file = path.open("a")
            self._events = tf.summary.create_file_writer(str(workdir / "events"))

    def advance(self, step: int) -> None:
        """Moves the bar."""
        self._bar.update(step - self._bar.n)

    def train(self, step: int, numbers: Mapping[str, float]) -> None:
        """Writes training numbers, with the pictures per second since the last call."""
        now = time.monotonic()
        rate = (step - self._step) * self._batch_size / max(now - self._clock, 1e-9)
        self._clock, self._step = now, step
        shown = {k: f"{v:.3g}" for k, v in numbers.items() if "/" not in k or k.startswith("rate/")}
        self._bar.set_postfix({**shown, "pictures/s": f"{rate:.0f}"})
        self.write(step, {**numbers, "pictures_per_second": rate})

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Writes one row of numbers at `step`."""
        if self._file is None:
            return
        numbers = {name: float(value) for name, value in numbers.items()}
        self._file.write(json.dumps({"step": step, **numbers}) + "\n")
        self._file.flush()
        with self._events.as_default(step):
            for name, value in numbers.items():
                tf.summary.scalar(name, value)
        self._events.flush()

    def pictures(self, step: int, name: str, images: np.ndarray) -> None:
        """Shows pictures `[N, H, W, 3]`, 0..255, in TensorBoard."""
        if self._events is not None:
            with self._events.as_default(step):
                images = np.clip(images, 0, 255).astype(np.uint8)
                tf.summary.image(name, images, max_outputs=len(images))

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        if self._file is not None:
            tqdm.write(text)

    def rest(self) -> None:
        """Leaves the time since the last call of `train` or `rest` out of the speed."""
        self._clock, self._step = time.monotonic(), self._bar.n

    def close(self) -> None:
        """Ends the bar and closes the files."""
        self._bar.close()
        if self._file is not None:
            self._file.close()
            self._events.close()


def _drop_rows_after(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # the last line of a killed run
        if row["step"] <= step:
            kept.append(line + "\n")
    partial = path.with_suffix(".partial")
    partial.write_text("".join(kept))
    partial.replace(path)
