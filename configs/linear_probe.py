r"""A projection and a cosine classifier over a frozen backbone.

    universal-embedding train --config=linear_probe:dataset=NAME,backbone=EfficientNetV2B0 \
        --workdir=runs/probe

Arguments: `dataset`, a prepared data set; `backbone`, anything that models.backbones.load_backbone
takes, such as siglip2_base_patch16_224 or a .keras file.

Follows the linear adaptation of ILIAS (arXiv 2502.11748), with a strong weight decay, which
generalizes better to new classes, over the square root of the features. Features are computed once,
in one pass over the images; then 1,500 steps of 64 take seconds. On uned_mini (15,424 images of
eight domains, not shipped), over an EfficientNet-Lite0 in a .keras file, test split, mean of three
seeds: merged R@1 0.757, mMP@5 0.628, and 0.638, 0.468 for the frozen backbone
(benchmarks/results/fusion.md). The default backbone, whose weights Keras downloads, is untested.
"""

from universal_embedding.training.config import base_config, parse_argument, shrink, stage


def get_config(argument=""):
    arg = parse_argument(argument, dataset="uned_mini", backbone="EfficientNetV2B0", runlocal=False)
    config = base_config()
    config.data.dataset = arg.dataset
    config.data.batch_size = 64
    config.model.backbone = arg.backbone
    config.model.standardize = True
    config.model.feature_power = 0.5
    config.head.scale = 10.0
    config.optimizer.weight_decay.update(projection=6.0, head=6.0)
    rates = {"projection_lr": 3e-3, "head_lr": 5e-3}
    config.stages = (stage(name="linear", input="features", steps=1500, warmup_steps=50, **rates),)
    config.log_every_steps = 500
    return shrink(config) if arg.runlocal else config
