r"""A run continued with new classes and new images, so that the old index stays valid.

    universal-embedding prepare --manual_dir=PATH/TO/new --dataset=new
    universal-embedding train --continue_from=runs/old --data=new --workdir=runs/new
    universal-embedding evaluate --compatible runs/old runs/new

Arguments: `run`, the directory of the run to continue; `data`, the prepared data set that joins
its own (classes are matched by id, or by name where they have names); `replay`, the share of old
images in each domain; `compatible`, the weight of the loss under the old, frozen classes (Shen et
al., CVPR 2020); `runlocal`, for a smoke test.

All else is that run's config: its stages run again, from its weights and its classes.
"""

from universal_embedding.errors import UserError
from universal_embedding.files import as_path
from universal_embedding.training.config import base_config, load_config, parse_argument, shrink
from universal_embedding.training.run_directory import read_config


def get_config(argument=""):
    arg = parse_argument(argument, run="", data="", replay=0.5, compatible=1.0, runlocal=False)
    if not arg.run or not arg.data:
        raise UserError("the recipe `continued` needs run=RUN_DIRECTORY and data=NEW_DATASET")
    config = load_config(base_config(), read_config(as_path(arg.run))["config"])
    config.data.dataset += f"+{arg.data}"
    config.data.replay = arg.replay
    config.init_from, config.init_head = arg.run, True
    config.losses.compatible.weight, config.losses.compatible.run = arg.compatible, arg.run
    return shrink(config) if arg.runlocal else config
