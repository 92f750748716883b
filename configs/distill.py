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
smaller one. `dataset` and `backbone` are as everywhere.

A linear layer over a frozen backbone whose features are computed once: after that, half a minute
for each run on two cores. The results, merged and separate, are in
benchmarks/results/distillation.md.
"""

from universal_embedding.errors import UserError
from universal_embedding.training.config import base_config, read_argument, stage

FROM_TEACHERS = ("feng", "absolute", "relational")
METHODS = (*FROM_TEACHERS, "udon", "joint", "separate", "specialist")


def get_config(argument=""):
    given = read_argument(
        argument,
        method="feng",
        domain="",
        teachers="runs/specialists/{domain}",
        dataset="uned_mini",
        backbone="../shared/backbones/efficientnet_lite0.keras",
    )
    method, domain = given["method"], given["domain"]
    if method not in METHODS:
        raise UserError(f"method={method}; it must be one of {', '.join(METHODS)}")
    if (method == "specialist") != bool(domain):
        raise UserError("method=specialist takes domain=KEY, and no other method does")
    config = base_config()
    config.data.dataset = given["dataset"]
    config.data.domains = (domain,) if domain else ()
    config.data.batch_size = 128
    config.model.backbone = given["backbone"]
    config.model.dropout = 0.3
    config.head.joint = method not in ("separate", "udon")
    steps = 600 if domain else 3000
    config.stages = (
        stage(
            name="linear",
            input="features",
            steps=steps,
            projection_rate=1e-3,
            head_rate=1e-3,
        ),
    )
    config.validate_every = steps // 6
    config.checkpoint_every = steps
    if method in FROM_TEACHERS:
        config.distillation.teachers = given["teachers"]
        config.objectives[method] = 1.0
    if method == "udon":
        config.objectives.udon = 1.0
        config.objectives.classification = 0.0
        config.data.batch = "domain"
        config.data.sampler = "round_robin"
        config.data.reweight_every = steps // 6
    return config
