"""One universal embedding that learns from specialists, or online from heads of its own (UDON).

    for d in dishes flags furniture logos nature packages produce vehicles; do
      python tools/train.py --config=configs/distill.py:method=specialist,domain=$d \
          --workdir=runs/specialists/$d
    done
    python tools/train.py --config=configs/distill.py:method=feng --workdir=runs/feng

The argument is a list of name=value: `method` is feng (arXiv 2003.03701), absolute, relational
(arXiv 1904.05068) or udon (arXiv 2406.08332); or what they are compared with: specialist (of
`domain`), joint or separate (universal, by classification alone). `teachers` says where the
specialists are, with {domain} in place of the key; without it, one universal model teaches a
smaller one. `finetune` is a number of steps in which the last eleven blocks train too, after a
linear layer over features of the frozen backbone. `dataset` and `backbone` are as everywhere.

The linear layer alone takes half a minute for each run on two cores, once features are computed;
a fine-tuning step of 64 pictures takes less than a second. The results, merged and separate, are in
benchmarks/results/distillation.md.
"""

from universal_embedding.errors import UserError
from universal_embedding.training.config import base_config, read_argument, stage

FROM_TEACHERS = ("feng", "absolute", "relational")
METHODS = (*FROM_TEACHERS, "udon", "joint", "separate", "specialist")

# What the average over the fine-tuning keeps of the weights it began with, however long it is.
KEPT = 0.3


def get_config(argument=""):
    given = read_argument(
        argument,
        method="feng",
        domain="",
        teachers="runs/specialists/{domain}",
        finetune="0",
        dataset="uned_mini",
        backbone="../shared/backbones/efficientnet_lite0.keras",
    )
    method, domain = given["method"], given["domain"]
    if method not in METHODS:
        raise UserError(f"method={method}; it must be one of {', '.join(METHODS)}")
    if (method == "specialist") != bool(domain):
        raise UserError("method=specialist takes domain=KEY, and no other method does")
    if not given["finetune"].isdecimal():
        raise UserError(f"finetune={given['finetune']}; it must be a number of steps, 0 for none")
    config = base_config()
    config.data.dataset = given["dataset"]
    config.data.domains = (domain,) if domain else ()
    config.data.batch_size = 128
    config.model.backbone = given["backbone"]
    config.model.dropout = 0.3
    config.head.scale = 10.0
    config.head.joint = method not in ("separate", "udon")
    config.optimizer.weight_decay.update(backbone=0.05, projection=3.0, head=3.0)
    steps, finetune = 300 if domain else 1500, int(given["finetune"])
    linear = {"projection_rate": 3e-3, "head_rate": 5e-3, "warmup": 50}
    config.stages = (stage(name="linear", input="features", steps=steps, **linear),)
    config.validate_every = steps // 6
    if finetune:
        config.data.batch_size = 64
        config.model.image_size = 192
        config.optimizer.average = KEPT ** (1 / finetune)
        rates = {"backbone_rate": 5e-4, "projection_rate": 1e-3, "head_rate": 3e-3}
        deep = {"backbone_depths": 11, "layer_decay": 0.9, "warmup": min(20, finetune), **rates}
        config.stages += (stage(name="all", steps=finetune, image_size=160, **deep),)
        config.validate_every = 0
    config.checkpoint_every = steps + finetune
    if method in FROM_TEACHERS:
        config.distillation.teachers = given["teachers"]
        config.distillation.once = True
        config.objectives[method] = 1.0
    if method == "udon":
        config.objectives.udon = 1.0
        config.objectives.classification = 0.0
        config.data.batch = "domain"
        config.data.sampler = "round_robin"
        config.data.reweight_every = steps // 6
    return config
