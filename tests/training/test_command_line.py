"""What tools/train.py says to a person who made a mistake: one line, exit code 1."""

import pytest
from support.processes import run

DEMO = "--config=configs/demo.py"
BAD = {
    "raises.py": "def get_config():\n    return 1 / 0\n",
    "syntax.py": "def get_config(: pass\n",
}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([DEMO, "--config.data.batch_sise=3"], "batch_size"),
        ([DEMO, "--config.modle.image_size=3"], "model"),
        ([DEMO, "--config.stages[0].stepz=3"], "steps"),
        ([DEMO, "--config.data.batch_size=many"], "batch_size"),
        ([DEMO, "--workdri=x"], "workdir"),
        ([DEMO, "--strategy=mirorred"], "mirrored"),
        (["--config=configs/nothing.py"], "configs/nothing.py"),
        ([f"{DEMO}:small"], "takes 0 positional arguments but 1 was given"),
        (["--config={tmp}/raises.py"], "ZeroDivisionError"),
        (["--config={tmp}/syntax.py"], "SyntaxError"),
        (["--config=configs/uned.py:bakbone=x"], "backbone"),
    ],
)
def test_a_mistake_is_one_line(arguments, named, tmp_path):
    _check(arguments, named, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([DEMO, "--data_dir={tmp}/none"], "tools/prepare.py"),
        ([DEMO, "--strategy=multi_worker"], "TF_CONFIG"),
    ],
)
def test_a_mistake_that_only_tensorflow_can_find_is_one_line(arguments, named, tmp_path):
    _check(arguments, named, tmp_path)


def _check(arguments, named, folder):
    for name, text in BAD.items():
        (folder / name).write_text(text)
    arguments = [argument.format(tmp=folder) for argument in arguments]
    code, _, err = run("tools/train.py", f"--workdir={folder}/run", *arguments)
    assert code == 1
    assert err.startswith("error: ") and err.count("\n") == 1, err
    assert named in err and "Traceback" not in err
    assert not (folder / "run").exists()
