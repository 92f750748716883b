"""One process of a run on in-memory records.

    python -m tests.helpers.worker STRATEGY BACKBONE WORKDIR WEIGHTS [OPTION ...]

Trains 20 steps in two stages and writes the weights of the model and the heads to WEIGHTS.npz.
Options: `signal`, SIGTERM to itself after step 8; `poison`, other weights to start from; `sharded`
classes; `pairs`, a loss of pairs; `evaluate` all boats in several blocks; `signal_in_evaluation`,
SIGTERM when it starts.
"""

import os
import signal
import sys
from pathlib import Path

SIGNAL_STEP = 8  # where a worker with the option `signal` sends SIGTERM to itself


def main(strategy_name, backbone, workdir, weights, *options):
    from universal_embedding.training.strategy import make_strategy

    strategy = make_strategy(strategy_name)  # before anything else of TensorFlow

    import numpy as np
    import tensorflow as tf

    from tests.helpers.fake_records import make_domains
    from universal_embedding.models.inference import RecordEmbedder
    from universal_embedding.training.config import base_config, stage
    from universal_embedding.training.experiment import Experiment
    from universal_embedding.training.hooks import Hook, default_hooks
    from universal_embedding.training.trainer import train

    class SignalHook(Hook):
        def after_steps(self, context, results):
            if context.step == SIGNAL_STEP:
                os.kill(os.getpid(), signal.SIGTERM)

    tf.config.experimental.enable_op_determinism()
    config = base_config()
    config.data.batch_size = 12
    config.model.backbone = backbone
    config.model.image_size = 16
    config.model.embedding_dim = 5
    config.model.dropout = 0.2
    config.optimizer.ema_decay = 0.9
    config.optimizer.clip_norm = 0.5
    config.head.joint = False
    config.head.sharded = "sharded" in options
    config.losses.supcon.weight = float("pairs" in options)
    config.log_every_steps = config.checkpoint_every_steps = 4
    learning_rates = {"projection_lr": 1e-2, "head_lr": 1e-2}
    config.stages = (
        stage(steps=5, input="features", **learning_rates),
        stage(steps=15, backbone_lr=1e-2, warmup_steps=3, **learning_rates),
    )
    records = make_domains({"apples": 30, "boats": 50, "coins": 20}, height=20, width=24)
    experiment = Experiment.from_config(config, records, Path(workdir), strategy)
    num_rows = []

    def evaluate(model, strategy):
        if "signal_in_evaluation" in options:
            os.kill(os.getpid(), signal.SIGTERM)
        blocks = RecordEmbedder(model, strategy, 16, batch_size=1).embed_blocks(records["boats"])
        num_rows.append(0)
        for rows in blocks:
            num_rows[-1] += len(rows)
        return {"merged/mean/r_at_1": 0.5}

    hooks = default_hooks(experiment, {"val": evaluate} if "evaluate" in options else None)
    if "poison" in options:
        experiment.weights[0].assign(experiment.weights[0] + 1e-3)
    done = train(experiment, [*hooks, SignalHook()] if "signal" in options else hooks)
    variables = [*experiment.weights, *experiment.checkpoint_state()["heads"]]
    np.savez(weights, *[variable.numpy() for variable in variables])
    print(f"evaluations embedded {num_rows} rows")
    print(f"{'done' if done else 'stopped'} at step {int(experiment.step.numpy())}")


if __name__ == "__main__":
    main(*sys.argv[1:])
