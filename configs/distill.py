r"""One universal embedding distilled from specialists, or online from its own heads (UDON).

    for d in dishes flags furniture logos nature packages produce vehicles; do
      universal-embedding train --config=distill:method=specialist,domain=$d \
          --workdir=runs/specialists/$d
    done
    universal-embedding train --config=distill:method=distance_distribution --workdir=runs/distilled

Arguments:
- `method`: the loss that is added to classification: distance_distribution (Feng et al., arXiv
  2003.03701; with `mask_other_domains` the student's distribution covers the whole batch),
  distance, rkd_distance (arXiv 1904.05068), or udon (arXiv 2406.08332) instead of it; or a
  baseline: specialist (of `domain`), joint or separate (universal, classification alone).
- `batching`, mixed or per_domain, and `sampler`, as in `config.data`.
- `teachers`: run directories of the specialists, with {domain} for the key; without {domain}, one
  universal model that teaches a smaller one. Several, joined by +, teach side by side; each is a
  run, a SavedModel, a backbone or a table of embeddings (see training.config.teacher).
- `finetune_steps`: steps in which the last eleven blocks train too, after a linear layer over
  features of the frozen backbone.
- `dataset`, a prepared data set; `backbone`, anything that models.backbones.load_backbone takes.

On uned_mini (15,424 images of eight domains, not shipped), over an EfficientNet-Lite0 in a .keras
file, on 2 CPU cores: the linear layer takes half a minute per run once features are computed, a
fine-tuning step of 64 images less than a second. Mean of three seeds on the test split, merged R@1
/ mMP@5: distance_distribution 0.742 / 0.609, joint 0.739 / 0.607; fine-tuned for 960 steps,
distance_distribution 0.827 / 0.712, joint 0.822 / 0.710 (benchmarks/results/distillation.md).
Validation selected the temperatures and weights. The default backbone, whose weights Keras
downloads, is untested.
"""

from universal_embedding.errors import UserError
from universal_embedding.training.config import (
    base_config,
    parse_argument,
    shrink,
    stage,
    teacher,
)

# Distillation losses and their weights, beside 1 for classification.
DISTILLATION = {"distance_distribution": 1.0, "distance": 10.0, "rkd_distance": 30.0}
TEMPERATURE = 0.2  # of both distance distributions
METHODS = (*DISTILLATION, "udon", "joint", "separate", "specialist")

# The weight that the EMA over the fine-tuning keeps on its initial weights, however long it is.
INITIAL_WEIGHT = 0.3


def get_config(argument=""):
    arg = parse_argument(
        argument,
        method="distance_distribution",
        domain="",
        batching="mixed",
        sampler="",
        mask_other_domains=False,
        teachers="runs/specialists/{domain}",
        finetune_steps=0,
        dataset="uned_mini",
        backbone="EfficientNetV2B0",
        runlocal=False,
    )
    method, domain, finetune_steps = arg.method, arg.domain, arg.finetune_steps
    if method not in METHODS:
        raise UserError(f"method={method}; it must be one of {', '.join(METHODS)}")
    if (method == "specialist") != bool(domain):
        raise UserError("method=specialist takes domain=KEY, and no other method does")
    if finetune_steps < 0:
        raise UserError(f"finetune_steps={finetune_steps}; it must be at least 0")
    config = base_config()
    config.data.dataset = arg.dataset
    config.data.domains = (domain,) if domain else ()
    config.data.batch_size = 128
    config.data.batching = arg.batching
    config.data.sampler = arg.sampler or ("round_robin" if method == "udon" else "balanced")
    config.model.backbone = arg.backbone
    config.model.dropout = 0.3
    config.head.scale = 10.0
    config.head.joint = method not in ("separate", "udon")
    config.optimizer.weight_decay.update(backbone=0.05, projection=3.0, head=3.0)
    steps = 300 if domain else 1500
    linear = {"projection_lr": 3e-3, "head_lr": 5e-3, "warmup_steps": 50}
    config.stages = (stage(name="linear", input="features", steps=steps, **linear),)
    config.evals.val.every_steps = steps // 6
    if finetune_steps:
        config.data.batch_size = 64
        config.model.image_size = 192
        config.optimizer.ema_decay = INITIAL_WEIGHT ** (1 / finetune_steps)
        finetune = {
            "image_size": 160,
            "trainable_blocks": 11,
            "layer_decay": 0.9,
            "warmup_steps": min(20, finetune_steps),
            "backbone_lr": 5e-4,
            "projection_lr": 1e-3,
            "head_lr": 3e-3,
        }
        config.stages += (stage(name="all", steps=finetune_steps, **finetune),)
        config.evals.val.every_steps = 0
    config.checkpoint_every_steps = steps + finetune_steps
    if method in DISTILLATION:
        config.distillation.teachers = tuple(map(teacher, arg.teachers.split("+")))
        config.distillation.cache_teachers = True
        config.losses[method].weight = DISTILLATION[method]
    distribution = config.losses.distance_distribution
    distribution.mask_other_domains = arg.mask_other_domains
    distribution.teacher_temperature = distribution.student_temperature = TEMPERATURE
    if method == "udon":
        config.losses.udon.weight = 1.0
        config.losses.classification.weight = 0.0
        config.data.reweight_every_steps = steps // 6
    return shrink(config) if arg.runlocal else config
