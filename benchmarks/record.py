"""Runs benchmarks one after another, keeps their records, and rewrites the tables made from them.

    python benchmarks/record.py --backbone=PATH/TO/efficientnet_lite0.keras --torch_python=PYTHON
    python benchmarks/record.py --only=heads --torch_python=PYTHON
    python benchmarks/record.py --only=uned_mini --backbone=PATH/TO/efficientnet_lite0.keras

By default all of speed, about an hour; those of quality and scale take hours each, and run when
--only names them. A record is kept as soon as its benchmark ends: after an error, go on with
--only.
"""

import json
import subprocess
import sys
from pathlib import Path

import common
import tables
from absl import flags

from universal_embedding.errors import UserError
from universal_embedding.files import atomic_write

SPEED = {
    "heads": "heads.py --torch_python={torch_python}",
    "retrieval_challenge": "retrieval.py --experiment=challenge",
    "retrieval_exact": "retrieval.py --experiment=exact",
    "retrieval_approximate": "retrieval.py --experiment=approximate",
    "train_step": "train_step.py --backbones=vit_s16,{backbone},pooling",
    "input_pipeline": "input_pipeline.py",
    "image_search": "image_search.py --backbone={backbone}",
    "export": "export.py --backbone={backbone}",
    "prepare": "prepare.py",
    "embed": "embed.py --backbone={backbone}",
}
QUALITY = {
    "uned_mini": "uned_mini.py --backbone={backbone}",
    "uned_mini_features": "uned_mini_features.py --backbone={backbone}",
    "uned_mini_finetuned": "uned_mini_finetuned.py --backbone={backbone}",
    "uned_mini_variants": (
        "uned_mini_finetuned.py --backbone={backbone} --steps=120 --nomeasure_speed "
        "--models=joint,udon,UJCDS,UJCRR,USCDS,USCRR"
    ),
    "search_options": "search_options.py --model={backbone}",
    "uned_table": "uned_table.py --runlocal --backbones={backbone}",
}
SCALE = {"hundred_million": "hundred_million.py --workdir=runs/hundred_million"}
COMMANDS = SPEED | QUALITY | SCALE

ONLY = flags.DEFINE_list("only", [], f"Benchmarks to run: {', '.join(COMMANDS)}. By default speed.")
BACKBONE = flags.DEFINE_string("backbone", "", "Keras file of a backbone for images of 224 pixels.")
TORCH_PYTHON = flags.DEFINE_string(
    "torch_python", "", "Python interpreter of an environment with pytorch-metric-learning."
)


def make_command(name):
    """The program of a benchmark and its arguments.

    Raises:
        UserError: There is no such benchmark, or it needs a flag that was not passed.
    """
    if name not in COMMANDS:
        raise UserError(f"--only={name} is not a benchmark; there are {', '.join(COMMANDS)}")
    values = {"backbone": BACKBONE.value, "torch_python": TORCH_PYTHON.value}
    for flag, value in values.items():
        if f"{{{flag}}}" in COMMANDS[name] and not value:
            raise UserError(f"the benchmark {name} needs --{flag}: {flags.FLAGS[flag].help}")
    program, *arguments = (word.format(**values) for word in COMMANDS[name].split())
    if common.ALLOW_BUSY.value:
        arguments.append("--allow_busy")
    return [str(Path(__file__).with_name(program)), *arguments]


def run(name, command):
    """Runs a program, showing its output, and returns the object of its last line.

    Raises:
        UserError: It failed.
    """
    last = ""
    with subprocess.Popen(
        [sys.executable, "-u", *command], stdout=subprocess.PIPE, text=True
    ) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line
    if process.returncode:
        raise UserError(f"the benchmark {name} ended with exit code {process.returncode}")
    return json.loads(last)


def main():
    commands = {name: make_command(name) for name in ONLY.value or SPEED}
    for name, command in commands.items():
        print(f"== {name}", flush=True)
        record = run(name, command)
        with atomic_write(tables.RESULTS / f"{name}.json") as file:
            json.dump(record, file, indent=1, ensure_ascii=False)
            file.write("\n")
        for path in tables.write_all():
            print(f"written: {path.relative_to(tables.ROOT)}")


if __name__ == "__main__":
    common.start(main)
