"""Speed of a run: step times, waiting for input, share of the peak FLOP/s, memory."""

from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from universal_embedding.models.backbones import resize_backbone
from universal_embedding.training.dry_run.flops import count_flops
from universal_embedding.training.dry_run.step_graph import read_graph
from universal_embedding.training.hardware import detect_device, peak_memory
from universal_embedding.training.schedule import Stage

if TYPE_CHECKING:
    from universal_embedding.training.experiment import Experiment


class StepTimer:
    """Metrics of how fast the steps of a stage are, and what they wait for.

    - `time/step_median`, `time/step_p99`: seconds of the steps since the last row;
    - `time/input_wait`: the share of that time in which the next batch was not ready although the
      previous step was done; on an accelerator, whose steps the host does not wait for, an upper
      bound; not with deterministic ops;
    - `time/first_step`: seconds of the first step since the stage was started or resumed, tracing
      and compiling included;
    - `mfu`: model FLOP utilization, on devices whose peak FLOP/s are known: FLOPs of the backbone's
      forward pass, and of its backward pass where it is trained, without recomputation;
    - `memory/peak_gb`: the most that one of this host's accelerators has held.

    Args:
        experiment: The run.
        stage: The stage.
    """

    def __init__(self, experiment: "Experiment", stage: Stage) -> None:
        self._seconds: list[np.ndarray] = []
        self._waits: list[np.ndarray] = []
        self._first_step: float | None = None
        self._seconds_at_peak = seconds_at_peak(experiment, stage)

    def update(self, times: np.ndarray) -> None:
        """Adds steps: the `[steps + 1, 2]` seconds of `StepResults.times`."""
        seconds = np.diff(times[:, 1])
        waits = np.maximum(times[1:, 0] - times[:-1, 1], 0.0)
        if self._first_step is None:
            self._first_step, seconds, waits = float(seconds[0]), seconds[1:], waits[1:]
        self._seconds.append(seconds)
        self._waits.append(waits)

    def pop(self) -> dict[str, float]:
        """Returns the metrics of the steps since the last time; see the class."""
        metrics = {"time/first_step": self._first_step or 0.0}
        seconds, waits = np.concatenate(self._seconds), np.concatenate(self._waits)
        self._seconds, self._waits = [], []
        if len(seconds):
            median = float(np.median(seconds))
            metrics["time/step_median"] = median
            metrics["time/step_p99"] = float(np.quantile(seconds, 0.99))
            if not np.isnan(waits).any():
                metrics["time/input_wait"] = float(waits.sum() / max(seconds.sum(), 1e-9))
            if self._seconds_at_peak is not None:
                metrics["mfu"] = self._seconds_at_peak / max(median, 1e-9)
        peak = peak_memory()
        if peak is not None:
            metrics["memory/peak_gb"] = peak / 1e9
        return metrics


def seconds_at_peak(experiment: "Experiment", stage: Stage) -> float | None:
    """Seconds that a step would take at the devices' peak FLOP/s; None where these are unknown."""
    device = detect_device(experiment.strategy)
    if device is None or stage.input != "images" or stage.trainable_blocks:
        return None
    flops = backbone_flops(experiment, stage) * stage.batch_size
    if "backbone" in stage.learning_rates:
        flops *= 3  # the backward pass has two products for each of the forward pass
    is_float32 = experiment.config.model.dtype_policy == "float32"
    peak = device.peak_flops_float32 if is_float32 else device.peak_flops
    return flops / (peak * device.num_replicas)


def backbone_flops(experiment: "Experiment", stage: Stage) -> int:
    """FLOPs of the backbone's forward pass on one image of a stage."""
    with experiment.strategy.scope():
        backbone = resize_backbone(experiment.model.backbone, stage.image_size)
    spec = tf.TensorSpec([1, stage.image_size, stage.image_size, 3], tf.float32)
    function = tf.function(lambda images: backbone(images, training=False))
    return count_flops(read_graph(function.get_concrete_function(spec).graph))
