"""`universal-embedding prepare`: exit codes, errors of one line, Beam, kill -9, real images."""

import signal
import time

import pytest
from PIL import Image

from tests.helpers.layouts import write_image, write_small_dataset, write_uned_layout
from tests.helpers.processes import call_cli, run_cli, start
from universal_embedding.datasets import prepare
from universal_embedding.datasets.records import list_prepared_domains, open_records
from universal_embedding.errors import UserError


def assert_refused(result, *words):
    code, _, err = result
    assert code == 1
    assert "Traceback" not in err
    assert err.strip().splitlines()[-1].startswith("error: ")
    assert all(word in err for word in words), err


def test_wrong_flags_are_refused_at_once(tmp_path):
    assert_refused(
        run_cli("prepare", f"--manual_dir={tmp_path}/nothing"), "nothing is not a directory"
    )
    assert_refused(run_cli("prepare", "--dataset=uned"), "--manual_dir")


def test_images_become_verified_records(tmp_path):
    root = write_small_dataset(tmp_path / "small")
    flags = [f"--data_dir={tmp_path}/data", "--verify", f"--montage={tmp_path}/sheet.png"]
    code, out, err = run_cli("prepare", f"--manual_dir={root}", *flags, "--max_side=16")
    assert code == 0, err
    assert "small/toys: prepared; --max_side=16 made" in out
    assert "small/toys: 14 images verified" in out
    assert list_prepared_domains(tmp_path / "data", "small") == ["birds", "toys"]
    assert Image.open(tmp_path / "sheet.png").size[1] > 500


def test_corrupt_image_is_refused_by_name(tmp_path):
    root = write_small_dataset(tmp_path / "small")
    file = root / "images/toys/a/3.jpg"
    file.write_bytes(b"nothing")
    flags = [f"--manual_dir={root}", f"--data_dir={tmp_path}/data", "--domains=toys"]
    assert_refused(call_cli("prepare", *flags), str(file), "--skip_corrupt")


def write_large_domain(root, count):
    rows = [(f"toys/{i}.jpg", i % 9) for i in range(count)]
    return write_uned_layout(root, "toys", {"train": rows})


@pytest.mark.slow
def test_killed_preparation_is_resumed(tmp_path):
    root = write_large_domain(tmp_path / "big", 10_000)
    flags = [f"--manual_dir={root}", f"--data_dir={tmp_path}/data"]
    folder = tmp_path / "data/big/toys/3.0.0"
    process = start("-m", "universal_embedding", "prepare", *flags)
    while not (folder / "work/train-00000.result.json").exists():
        time.sleep(0.01)
        assert process.poll() is None
    assert_refused(run_cli("prepare", *flags), str(folder), "in use by another run")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    first = folder / "big-train.tfrecord-00000-of-00003"
    written = first.stat()
    with pytest.raises(UserError, match="nothing is prepared"):
        list_prepared_domains(tmp_path / "data", "big")
    code, _, err = run_cli("prepare", *flags, "--verify")
    assert code == 0, err
    assert (first.stat().st_mtime_ns, first.stat().st_ino) == (written.st_mtime_ns, written.st_ino)
    assert not [path.name for path in folder.iterdir() if path.name == "work"]
    records = open_records(tmp_path / "data", "big", "toys", "train")
    assert records.image_ids.tolist() == [f"toys/{i}.jpg" for i in range(10_000)]


@pytest.mark.parametrize("flag", ["data_dir", "manual_dir"])
def test_bucket_that_cannot_be_reached_is_one_line(tmp_path, flag):
    write_small_dataset(tmp_path / "small")
    flags = {"manual_dir": tmp_path / "small", "data_dir": tmp_path / "data"}
    flags[flag] = f"gs://no-such-bucket-of-universal-embedding/{flag}"
    result = call_cli("prepare", *(f"--{name}={value}" for name, value in flags.items()))
    assert_refused(result, f"cannot access {flags[flag]}", "its bucket exists")
    assert not list(tmp_path.rglob("gs:*"))


def test_other_file_systems_are_refused(tmp_path):
    write_small_dataset(tmp_path / "small")
    flags = [f"--manual_dir={tmp_path}/small", "--data_dir=ftp://host/data"]
    assert_refused(call_cli("prepare", *flags), "ftp://host/data", "gs://")


BEAM = "runner=DirectRunner,direct_num_workers=2,direct_running_mode=multi_processing"


@pytest.mark.slow
def test_beam_writes_the_same_records(tmp_path):
    pytest.importorskip("apache_beam")
    root = write_large_domain(tmp_path / "big", 5000)
    (root / "images/toys/7.jpg").unlink()
    for name, flags in {"one": [], "beam": [f"--beam_pipeline_options={BEAM}"]}.items():
        flags = [f"--manual_dir={root}", f"--data_dir={tmp_path}/{name}", *flags]
        assert_refused(run_cli("prepare", *flags), "7.jpg", "missing")
        code, _, err = run_cli("prepare", *flags, "--skip_corrupt")
        assert code == 0, err
    one, beam = (open_records(tmp_path / n, "big", "toys", "train") for n in ("one", "beam"))
    assert one.image_ids.tolist() == beam.image_ids.tolist()
    assert one.read(range(len(one))) == beam.read(range(len(beam)))


def test_beam_runs_in_this_process(tmp_path):
    pytest.importorskip("apache_beam")
    root = write_small_dataset(tmp_path / "small")
    builder = prepare.make_builder("small", "toys", data_dir=tmp_path / "data")
    assert prepare.prepare(builder, root, "runner=DirectRunner")
    records = open_records(tmp_path / "data", "small", "toys", "train")
    assert records.read([3]) == [(root / "images/toys/a/3.jpg").read_bytes()]


def test_wrong_beam_options_are_refused(tmp_path):
    pytest.importorskip("apache_beam")
    write_image(tmp_path / "zoo/a/1.png")
    flags = [f"--manual_dir={tmp_path}/zoo", "--dataset=folder", f"--data_dir={tmp_path}/data"]
    options = "--beam_pipeline_options=direct_num_workers=many"
    assert_refused(call_cli("prepare", *flags, options), "direct_num_workers")


@pytest.mark.slow
def test_real_images_keep_their_bytes(uned_mini, tmp_path):
    flags = [f"--manual_dir={uned_mini}", f"--data_dir={tmp_path}", "--verify"]
    code, _, err = run_cli("prepare", *flags)
    assert code == 0, err
    total = 0
    for domain in list_prepared_domains(tmp_path, "uned_mini"):
        for file in (uned_mini / "info_files" / domain).glob("t*.json"):
            records = open_records(tmp_path, "uned_mini", domain, file.stem)
            total += len(records)
            for index in (0, len(records) - 1):
                path = uned_mini / "images" / records.image_ids[index]
                assert records.read([index]) == [path.read_bytes()]
    assert total == 12_699
