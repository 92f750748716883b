"""A projection and a cosine classifier over a frozen backbone whose features are computed once.

    python tools/train.py --config=configs/linear_probe.py --config.data.dataset=NAME \
        --config.model.backbone=siglip2_base_patch16_224 --workdir=runs/probe

After the linear adaptation of ILIAS (arXiv 2502.11748). Pictures go through the backbone once;
after that, tens of thousands are trained on each second, on any machine. On uned_mini over
EfficientNet-Lite0, see benchmarks/results/uned_mini.md.
"""

from universal_embedding.training.config import base_config, stage


def get_config(argument=""):
    config = base_config()
    config.data.dataset = argument or "uned_mini"
    config.data.batch_size = 128
    config.model.backbone = "../shared/backbones/efficientnet_lite0.keras"
    config.stages = (
        stage(
            name="linear",
            input="features",
            steps=1500,
            projection_rate=1e-3,
            head_rate=1e-3,
            warmup=100,
        ),
    )
    return config
