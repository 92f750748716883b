"""One process of a run on records in memory: `worker.py STRATEGY BACKBONE WORKDIR WEIGHTS`.

Trains 20 steps of two stages and writes the embedder's and heads' weights to WEIGHTS.npz.
"""

import os
import signal
import sys
from pathlib import Path

from universal_embedding.training.strategy import make_strategy

STRATEGY = make_strategy(sys.argv[1])  # before anything else of TensorFlow

SIGNAL_AT = 8  # steps; where a worker that is told to sends SIGTERM to itself


def main(backbone, workdir, weights, *options):
    import numpy as np
    import tensorflow as tf
    from support.fake_records import domains

    from universal_embedding.training.config import base_config, stage
    from universal_embedding.training.run import Run
    from universal_embedding.training.trainer import Trainer

    tf.config.experimental.enable_op_determinism()
    config = base_config()
    config.data.batch_size = 12
    config.model.backbone = backbone
    config.model.image_size = 16
    config.model.dimension = 5
    config.model.dropout = 0.2
    config.optimizer.average = 0.9
    config.optimizer.clip_norm = 0.5
    config.head.joint = False
    config.log_every = config.checkpoint_every = 4
    rates = {"projection_rate": 1e-2, "head_rate": 1e-2}
    config.stages = (
        stage(steps=5, input="features", **rates),
        stage(steps=15, backbone_rate=1e-2, warmup=3, **rates),
    )
    records = domains({"apples": 30, "boats": 50, "coins": 20}, height=20, width=24)
    run = Run(config, records, Path(workdir), STRATEGY)
    trainer = Trainer(run)
    if "signal" in options:
        pace = trainer._pace

        def send(*args):
            if int(run.step.numpy()) == SIGNAL_AT:
                os.kill(os.getpid(), signal.SIGTERM)
            return pace(*args)

        trainer._pace = send
    done = trainer.run()
    values = [variable.numpy() for variable in [*run.weights, *run.state()["heads"]]]
    np.savez(weights, *values)
    print(f"{'done' if done else 'stopped'} at step {int(run.step.numpy())}")


if __name__ == "__main__":
    main(*sys.argv[2:])
