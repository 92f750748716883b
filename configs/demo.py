"""The small network from scratch on the eight synthetic domains of examples/: `make demo`.

    universal-embedding train --config=demo --workdir=runs/demo --data_dir=demo/data

Trains 1,500 steps of 64 images (64 pixels): mean merged mMP@5 0.916, and 0.128 before training. All
of `make demo` took 231 s on 2 CPU cores that did other work as well, installation not included.
"""

from universal_embedding.training.config import base_config, parse_argument, shrink, stage


def get_config(argument=""):
    arg = parse_argument(argument, runlocal=False)
    config = base_config()
    config.data.dataset = "demo"
    config.data.batch_size = 64
    config.model.backbone = "small"
    config.model.image_size = 64
    config.augmentation.scale = (0.64, 1.0)
    config.augmentation.ratio = (1.0, 1.0)
    config.optimizer.weight_decay.backbone = 1e-2
    config.optimizer.weight_decay.projection = 1e-2
    config.optimizer.clip_norm = 1.0
    config.stages = (
        stage(
            name="all",
            steps=1500,
            backbone_lr=2e-3,
            projection_lr=2e-3,
            head_lr=6e-3,
            warmup_steps=100,
        ),
    )
    config.evals.val.every_steps = 500
    return shrink(config) if arg.runlocal else config
