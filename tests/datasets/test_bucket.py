"""Preparing data on a bucket, and one run at a time there and on a disk."""

import threading

import pytest
import tensorflow_datasets as tfds

from tests.helpers.layouts import toys_builder, write_image, write_small_dataset
from tests.helpers.ram import enable_ram_paths
from universal_embedding.datasets import lock, prepare, shards
from universal_embedding.datasets.records import list_prepared_domains, open_records
from universal_embedding.errors import UserError
from universal_embedding.files import as_path

enable_ram_paths()
pytestmark = pytest.mark.usefixtures("small_shards")


@pytest.fixture
def fast_lock(monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(lock, "SETTLE_SECONDS", 0.02)


@pytest.mark.parametrize("data_dir", ["local", "ram://bucket/locked"])
def test_two_runs_do_not_prepare_one_set_at_once(root, tmp_path, monkeypatch, fast_lock, data_dir):
    data_dir = data_dir if "://" in data_dir else tmp_path / data_dir
    started, finish = threading.Event(), threading.Event()
    original = shards.write_shard

    def wait(*arguments):
        started.set()
        assert finish.wait(30)
        return original(*arguments)

    monkeypatch.setattr(shards, "write_shard", wait)
    first = threading.Thread(target=prepare.prepare, args=(toys_builder(data_dir), root))
    first.start()
    assert started.wait(30)
    try:
        with pytest.raises(
            UserError, match=r"toys/3.0.0 is in use by another run .*host .*process"
        ):
            prepare.prepare(toys_builder(data_dir), root)
    finally:
        finish.set()
        first.join()
    assert not prepare.prepare(toys_builder(data_dir), root)
    assert len(open_records(data_dir, "small", "toys", "train")) == 12


def test_lock_of_a_dead_run_on_a_bucket_is_taken_over(root, fast_lock):
    builder = toys_builder("ram://bucket/dead")
    (builder.folder / "work").mkdir(parents=True)
    (builder.folder / "work/lock").write_text("host gone, process 1, abcdef00, 17")
    assert prepare.prepare(builder, root)


def test_lock_on_a_bucket_has_one_holder(fast_lock):
    path = as_path("ram://bucket/lock/lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    held, errors = [], []
    barrier = threading.Barrier(4)

    def run(number):
        barrier.wait()
        try:
            with lock.hold_lock(path):
                held.append(number)
                threading.Event().wait(0.5)
        except UserError as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(held), len(errors)) == (1, 3)
    assert not path.exists()


def copy_to_ram(folder, target):
    for file in folder.rglob("*"):
        if file.is_file():
            path = as_path(target) / file.relative_to(folder).as_posix()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.read_bytes())
    return target


@pytest.mark.parametrize("dataset", ["small", "folder"])
def test_images_and_records_may_both_be_on_a_bucket(tmp_path, dataset):
    if dataset == "small":
        local = write_small_dataset(tmp_path / dataset)
    else:
        local = tmp_path / "toys"
        for i in range(12):
            write_image(local / f"class {i // 3}/part/{i}.png", i)
        write_image(local / ".hidden/x.png")
    (local / "images/toys/a/1.jpg").parent.mkdir(parents=True, exist_ok=True)
    root = as_path(copy_to_ram(local, f"ram://bucket/{dataset}/{local.name}"))
    if dataset == "folder":
        (local / "images/toys/a").rmdir()
        (local / "images/toys").rmdir()
        (local / "images").rmdir()
    for data_dir, manual_dir in ((f"ram://bucket/data-{dataset}", root), (tmp_path / "d", local)):
        keys = prepare.list_domains(dataset, as_path(manual_dir))
        for key in keys:
            assert prepare.prepare(
                prepare.make_builder(dataset, key, data_dir=data_dir), manual_dir
            )
        assert list_prepared_domains(data_dir, dataset) == keys
    for split in ("train", "val", "test"):
        on_ram, on_disk = (
            open_records(d, dataset, "toys", split)
            for d in (f"ram://bucket/data-{dataset}", tmp_path / "d")
        )
        assert on_ram.image_ids.tolist() == on_disk.image_ids.tolist()
        assert on_ram.labels.values.tolist() == on_disk.labels.values.tolist()
        assert on_ram.read(range(len(on_ram))) == on_disk.read(range(len(on_disk)))
        assert on_ram.class_names == on_disk.class_names
    loaded = tfds.load(f"{dataset}/toys", data_dir=f"ram://bucket/data-{dataset}", split="test")
    ids = [example["image_id"].decode() for example in loaded.as_numpy_iterator()]
    assert ids == on_disk.image_ids.tolist()
    assert prepare.verify_records(on_ram.folder, "toys") == sum(
        row.num_images for row in prepare.summarize(tmp_path / "d", dataset, ["toys"])
    )


def test_beam_works_on_a_bucket(root):
    pytest.importorskip("apache_beam")
    builder = toys_builder("ram://bucket/beam")
    assert prepare.prepare(builder, root, "runner=DirectRunner")
    assert prepare.verify_records(builder.folder, "toys") == 12


def test_missing_image_on_a_bucket_is_named(root):
    manual_dir = as_path(copy_to_ram(root, "ram://bucket/missing"))
    (manual_dir / "images/toys/5.jpg").unlink()
    with pytest.raises(UserError, match=r"ram://bucket/missing/images/toys/5.jpg.*is missing"):
        prepare.prepare(toys_builder("ram://bucket/missing-data"), manual_dir)
