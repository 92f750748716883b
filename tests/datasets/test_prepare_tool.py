"""`tools/prepare.py` as a program: exit codes, errors of one line, Beam, kill -9, real pictures."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from layouts import picture, small_tree, tree
from PIL import Image

from universal_embedding.datasets import catalogue, preparation
from universal_embedding.datasets.records import open_records, prepared_domains

ROOT = Path(__file__).resolve().parent.parent.parent
COMMAND = [sys.executable, str(ROOT / "tools/prepare.py")]


def run(*flags):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*COMMAND, *flags], capture_output=True, text=True, env=environment, check=False
    )


def assert_refused(done, *words):
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert all(word in done.stderr for word in words), done.stderr


def test_wrong_flags_are_told_at_once(tmp_path):
    assert_refused(run(f"--manual_dir={tmp_path}/nothing"), "nothing is no folder")
    assert_refused(run("--dataset=uned"), "--manual_dir")


def test_from_pictures_to_verified_records(tmp_path):
    root = small_tree(tmp_path / "small")
    flags = [f"--data_dir={tmp_path}/data", "--verify", f"--preview={tmp_path}/sheet.png"]
    done = run(f"--manual_dir={root}", *flags)
    assert done.returncode == 0, done.stderr
    assert "small/toys: 14 pictures verified" in done.stdout
    assert prepared_domains(tmp_path / "data", "small") == ["birds", "toys"]
    assert Image.open(tmp_path / "sheet.png").size[1] > 500


def test_broken_picture(tmp_path):
    root = small_tree(tmp_path / "small")
    file = root / "images/toys/a/3.jpg"
    file.write_bytes(b"nothing")
    done = run(f"--manual_dir={root}", f"--data_dir={tmp_path}/data", "--domains=toys")
    assert_refused(done, str(file), "--skip_broken")


def big_tree(root, count=400):
    return tree(root, "toys", {"train": [(f"toys/{i}.jpg", i % 9) for i in range(count)]})


@pytest.mark.slow
def test_killed(tmp_path):
    root = big_tree(tmp_path / "big", 4000)
    flags = [f"--manual_dir={root}", f"--data_dir={tmp_path}/data"]
    process = subprocess.Popen([*COMMAND, *flags], env=os.environ | {"PYTHONPATH": str(ROOT)})
    while not list((tmp_path / "data").rglob("*.unfinished")):
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    with pytest.raises(Exception, match="nothing is prepared"):
        prepared_domains(tmp_path / "data", "big")
    assert run(*flags).returncode == 0
    assert [path.name for path in (tmp_path / "data/big/toys").iterdir()] == ["1.0.0"]
    assert len(open_records(tmp_path / "data", "big", "toys", "train")) == 4000


BEAM = "runner=DirectRunner,direct_num_workers=2,direct_running_mode=multi_processing"


@pytest.mark.slow
def test_beam_writes_the_same_records(tmp_path):
    pytest.importorskip("apache_beam")
    root = big_tree(tmp_path / "big", 5000)
    (root / "images/toys/7.jpg").unlink()
    for name, flags in {"one": [], "beam": [f"--beam_pipeline_options={BEAM}"]}.items():
        done = run(f"--manual_dir={root}", f"--data_dir={tmp_path}/{name}", *flags)
        assert_refused(done, "7.jpg", "missing")
        done = run(f"--manual_dir={root}", f"--data_dir={tmp_path}/{name}", *flags, "--skip_broken")
        assert done.returncode == 0, done.stderr
    one, beam = (open_records(tmp_path / n, "big", "toys", "train") for n in ("one", "beam"))
    assert one.image_ids.tolist() == beam.image_ids.tolist()
    assert one.read(range(len(one))) == beam.read(range(len(beam)))


def test_beam_in_this_process(tmp_path):
    pytest.importorskip("apache_beam")
    root = small_tree(tmp_path / "small")
    builder = catalogue.builder("small", "toys", data_dir=tmp_path / "data")
    assert preparation.prepare(builder, root, "runner=DirectRunner")
    records = open_records(tmp_path / "data", "small", "toys", "train")
    assert records.read([3]) == [(root / "images/toys/a/3.jpg").read_bytes()]


def test_beam_of_wrong_options(tmp_path):
    pytest.importorskip("apache_beam")
    picture(tmp_path / "zoo/a/1.png")
    flags = [f"--manual_dir={tmp_path}/zoo", "--dataset=folder", f"--data_dir={tmp_path}/data"]
    options = "--beam_pipeline_options=direct_num_workers=many"
    assert_refused(run(*flags, options), "direct_num_workers")


@pytest.mark.slow
def test_uned_mini(uned_mini, tmp_path):
    done = run(f"--manual_dir={uned_mini}", f"--data_dir={tmp_path}", "--verify")
    assert done.returncode == 0, done.stderr
    total = 0
    for domain in prepared_domains(tmp_path, "uned_mini"):
        for file in (uned_mini / "info_files" / domain).glob("t*.json"):
            records = open_records(tmp_path, "uned_mini", domain, file.stem)
            total += len(records)
            for number in (0, len(records) - 1):
                path = uned_mini / "images" / records.image_ids[number]
                assert records.read([number]) == [path.read_bytes()]
    assert total == 12_699
