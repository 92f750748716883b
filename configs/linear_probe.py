"""A projection and a cosine classifier over a frozen backbone whose features are computed once.

    python tools/train.py --config=configs/linear_probe.py:NAME --workdir=runs/probe \
        --config.model.backbone=siglip2_base_patch16_224

NAME is a prepared data set. After the linear adaptation of ILIAS (arXiv 2502.11748), with a strong
weight decay, which generalises better to new classes. Pictures go through the backbone once; after
that, tens of thousands are trained on each second, on any machine. On uned_mini over
EfficientNet-Lite0: benchmarks/results/uned_mini.md.
"""

from universal_embedding.training.config import base_config, stage


def get_config(argument=""):
    config = base_config()
    config.data.dataset = argument or "uned_mini"
    config.data.batch_size = 64
    config.model.backbone = "../shared/backbones/efficientnet_lite0.keras"
    config.head.scale = 10.0
    config.optimizer.weight_decay.update(projection=3.0, head=3.0)
    rates = {"projection_rate": 3e-3, "head_rate": 5e-3}
    config.stages = (stage(name="linear", input="features", steps=1500, warmup=50, **rates),)
    config.log_every = 500
    return config
