"""Writing shards: resumed after a kill, one run at a time, on any file system, at any size."""

import contextlib
import io
import json
import threading

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.helpers.layouts import write_image, write_small_dataset, write_uned_layout
from tests.helpers.processes import run
from tests.helpers.ram import enable_ram_paths
from universal_embedding.datasets import lock, prepare, shards
from universal_embedding.datasets.examples import Labels, SplitManifest
from universal_embedding.datasets.image_files import read_image, to_tf_decodable
from universal_embedding.datasets.records import list_prepared_domains, open_records
from universal_embedding.datasets.tfrecord import RecordWriter, decode_example, encode_example
from universal_embedding.errors import UserError
from universal_embedding.files import as_path

enable_ram_paths()


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.fixture
def root(tmp_path):
    """12 images of one split, which become 4 shards."""
    rows = [(f"toys/{i}.jpg", i % 5) for i in range(12)]
    return write_uned_layout(tmp_path / "small", "toys", {"train": rows})


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(shards, "IMAGES_PER_SHARD", 3)


def make_builder(data_dir, **options):
    return prepare.make_builder("small", "toys", data_dir=data_dir, **options)


@contextlib.contextmanager
def watch_shards(kill_in=None):
    """Yields the names of the shards that are begun; dies in the middle of the n-th of them."""
    begun, encode, write = [], shards.encode_example, shards.write_shard
    encoded = 0

    def encode_or_die(*arguments):
        nonlocal encoded
        encoded += 1
        if len(begun) == kill_in and encoded == 2:
            raise Killed
        return encode(*arguments)

    def watched_write(spec, on_image=lambda: None):
        nonlocal encoded
        encoded = 0
        begun.append(as_path(spec.records).name)
        write(spec, on_image)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "encode_example", encode_or_die)
        patch.setattr(shards, "write_shard", watched_write)
        if kill_in is None:
            yield begun
        else:
            with pytest.raises(Killed):
                yield begun


@pytest.mark.parametrize("data_dir", ["local", "ram://bucket/resumed"])
def test_interrupted_preparation_keeps_its_whole_shards(root, tmp_path, data_dir):
    data_dir = data_dir if "://" in data_dir else tmp_path / data_dir
    builder = make_builder(data_dir)
    with watch_shards(kill_in=3) as begun:
        prepare.prepare(builder, root)
    assert len(begun) == 3 and not builder.is_prepared
    with pytest.raises(UserError, match="nothing is prepared"):
        list_prepared_domains(data_dir, "small")
    with watch_shards() as resumed:
        assert prepare.prepare(builder, root)
    assert resumed == [f"small-train.tfrecord-{i:05d}-of-00004" for i in (2, 3)]
    records = open_records(data_dir, "small", "toys", "train")
    assert records.image_ids.tolist() == [f"toys/{i}.jpg" for i in range(12)]
    assert records.shards.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    files = [(root / "images" / name).read_bytes() for name in records.image_ids]
    assert records.read(range(12)) == files
    assert prepare.verify_records(records.folder, "toys") == 12
    assert not (builder.folder / "work").exists()


def test_truncated_shard_of_an_interrupted_preparation_is_written_again(root, tmp_path):
    builder = make_builder(tmp_path)
    with watch_shards(kill_in=3):
        prepare.prepare(builder, root)
    shard = builder.folder / "small-train.tfrecord-00000-of-00004"
    shard.write_bytes(shard.read_bytes()[:-1])
    with watch_shards() as resumed:
        assert prepare.prepare(builder, root)
    assert [name[-14:] for name in resumed] == [f"{i:05d}-of-00004" for i in (0, 2, 3)]
    assert prepare.verify_records(builder.folder, "toys") == 12


@pytest.mark.parametrize("change", ["options", "labels", "order"])
def test_shards_of_other_images_or_options_are_not_kept(root, tmp_path, change):
    with watch_shards(kill_in=3):
        prepare.prepare(make_builder(tmp_path), root)
    info, options = root / "info_files/toys/train.json", {}
    rows = json.loads(info.read_text())
    if change == "options":
        options["max_side"] = 10
    elif change == "labels":
        rows[0]["class_id"] = 77
    else:
        rows.reverse()
    info.write_text(json.dumps(rows))
    with watch_shards() as begun:
        assert prepare.prepare(make_builder(tmp_path, **options), root)
    assert len(begun) == 4
    records = open_records(tmp_path, "small", "toys", "train")
    assert records.image_ids.tolist() == [row["path"] for row in rows]
    assert records.labels.values.tolist() == [row["class_id"] for row in rows]
    assert prepare.verify_records(records.folder, "toys") == 12


@pytest.mark.parametrize(
    "last_call",
    [
        "tensorflow_datasets.folder_dataset.write_metadata",
        "universal_embedding.datasets.builder.atomic_write",
        "universal_embedding.datasets.builder.ImageRetrievalBuilder.remove_work_dir",
    ],
)
def test_preparation_that_dies_while_it_commits_is_completed(root, tmp_path, last_call):
    def die(*arguments, **options):
        raise Killed

    builder = make_builder(tmp_path)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(last_call, die)
        prepare.prepare(builder, root)
    was_whole = last_call.endswith("remove_work_dir")
    assert builder.is_prepared == was_whole
    with watch_shards() as resumed:
        assert bool(prepare.prepare(builder, root)) != was_whole
    assert not resumed
    assert not (builder.folder / "work").exists()
    assert prepare.verify_records(builder.folder, "toys") == 12


def test_files_of_others_are_not_removed(root, tmp_path):
    file = make_builder(tmp_path).folder / "dataset_info.json"
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    with pytest.raises(UserError, match=r"holds dataset_info\.json, which no preparation left"):
        prepare.prepare(make_builder(tmp_path), root)
    assert file.exists()


def test_corrupt_image_may_be_replaced_or_skipped_without_writing_the_rest_again(root, tmp_path):
    file = root / "images/toys/7.jpg"
    data = file.read_bytes()
    file.write_bytes(b"")
    with pytest.raises(UserError, match=r"7\.jpg.*empty.*--skip_corrupt"):
        prepare.prepare(make_builder(tmp_path), root)
    with watch_shards(kill_in=2) as begun:
        prepare.prepare(make_builder(tmp_path, skip_corrupt=True), root)
    assert [name[-14:-9] for name in begun] == ["00002", "00003"]
    with pytest.raises(UserError, match=r"7\.jpg.*empty.*--skip_corrupt"):  # it was skipped before
        prepare.prepare(make_builder(tmp_path), root)
    file.write_bytes(data)
    assert prepare.prepare(make_builder(tmp_path), root)
    assert open_records(tmp_path, "small", "toys", "train").read([7]) == [data]


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
    first = threading.Thread(target=prepare.prepare, args=(make_builder(data_dir), root))
    first.start()
    assert started.wait(30)
    try:
        with pytest.raises(
            UserError, match=r"toys/3.0.0 is in use by another run .*host .*process"
        ):
            prepare.prepare(make_builder(data_dir), root)
    finally:
        finish.set()
        first.join()
    assert not prepare.prepare(make_builder(data_dir), root)
    assert len(open_records(data_dir, "small", "toys", "train")) == 12


def test_lock_of_a_dead_run_on_a_bucket_is_taken_over(root, fast_lock):
    builder = make_builder("ram://bucket/dead")
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
    builder = make_builder("ram://bucket/beam")
    assert prepare.prepare(builder, root, "runner=DirectRunner")
    assert prepare.verify_records(builder.folder, "toys") == 12


def test_missing_image_on_a_bucket_is_named(root):
    manual_dir = as_path(copy_to_ram(root, "ram://bucket/missing"))
    (manual_dir / "images/toys/5.jpg").unlink()
    with pytest.raises(UserError, match=r"ram://bucket/missing/images/toys/5.jpg.*is missing"):
        prepare.prepare(make_builder("ram://bucket/missing-data"), manual_dir)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((400, 300), (100, 75)), ((300, 400), (75, 100)), ((1000, 3), (100, 1)), ((100, 99), None)],
)
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_larger_images_alone_are_resized(size, expected, file_format):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize(size, Image.BICUBIC)
    out = io.BytesIO()
    image.save(out, file_format)
    data = out.getvalue()
    resized = to_tf_decodable(data, max_side=100)
    if expected is None:
        assert resized == to_tf_decodable(data)
        return
    with Image.open(io.BytesIO(resized)) as opened:
        assert (opened.format, opened.size) == ("JPEG", expected)
    assert np.array_equal(read_image(resized), tf.io.decode_image(resized, channels=3))
    smooth = Image.fromarray(read_image(data)).resize(expected, Image.LANCZOS)
    assert np.abs(read_image(resized).astype(int) - np.asarray(smooth)).mean() < 2


def test_max_side_is_reported_and_compared(root, tmp_path):
    for i in range(12):
        pixels = np.random.default_rng(i).integers(0, 256, (100 if i < 6 else 40, 30, 3), np.uint8)
        Image.fromarray(pixels).save(root / f"images/toys/{i}.jpg", quality=95)
    sizes = [(root / f"images/toys/{i}.jpg").stat().st_size for i in range(12)]
    summary = prepare.prepare(make_builder(tmp_path, max_side=50), root)
    records = open_records(tmp_path, "small", "toys", "train")
    images = records.read(range(12))
    assert [read_image(image).shape[:2] for image in images] == [(50, 15)] * 6 + [(40, 30)] * 6
    total, shrunk = sum(sizes), sum(map(len, images))
    assert images[6:] == [(root / f"images/toys/{i}.jpg").read_bytes() for i in range(6, 12)]
    assert f"--max_side=50 made {total / 1e6:.1f} MB" in summary
    assert f"{1 - shrunk / total:.0%} smaller" in summary
    for other in (None, 60):
        with pytest.raises(UserError, match=f"--max_side=50, not --max_side={other}"):
            prepare.prepare(make_builder(tmp_path, max_side=other), root)
    assert prepare.prepare(make_builder(tmp_path, max_side=50), root) == ""


@given(
    st.lists(st.integers(1, 3000), min_size=1, max_size=120),
    st.integers(1, 200),
    st.integers(500, 50_000),
)
def test_shards_are_whole_ranges_of_about_equal_bytes(sizes, max_images, max_bytes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "IMAGES_PER_SHARD", max_images)
        patch.setattr(shards, "MAX_SHARD_BYTES", max_bytes)
        patch.setattr(shards, "file_size", lambda path: sizes[int(path.name)])
        manifest = SplitManifest([str(i) for i in range(len(sizes))], Labels.from_rows(sizes))
        ranges = shards.plan_shards(as_path("/images"), manifest)
    assert [i for indices in ranges for i in indices] == list(range(len(sizes)))
    assert all(len(indices) for indices in ranges)
    largest = max(sizes) + 1
    assert all(sum(sizes[i] for i in r) <= max_bytes + largest for r in ranges)


def test_bytes_of_a_record_are_the_same_in_every_process():
    code = """
from universal_embedding.datasets.tfrecord import encode_example
print(encode_example(b"image", [3, 1], "a/b.jpg").hex())
"""
    expected = encode_example(b"image", [3, 1], "a/b.jpg").hex()
    assert expected.index(b"image_id".hex()) < expected.index(b"label".hex())  # sorted by name
    assert run("-c", code)[1].strip() == expected


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=8), st.integers(1, 2**40))
def test_file_is_what_tensorflow_reads_and_tfds_encodes(images, label):
    path = "ram://bucket/one.tfrecord"
    as_path(path).unlink(missing_ok=True)  # unlike a bucket, ram:// does not truncate
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Scalar(tf.string),
            "label": tfds.features.Sequence(np.int64),
            "image_id": tfds.features.Text(),
        }
    )
    with RecordWriter(path) as writer:
        for i, image in enumerate(images):
            data = encode_example(image, [label, -i], f"ü/{i}")
            example = {"image": image, "label": [label, -i], "image_id": f"ü/{i}"}
            parsed = tf.train.Example.FromString(features.serialize_example(example))
            assert tf.train.Example.FromString(data) == parsed
            assert decode_example(data) == {**example, "image_id": f"ü/{i}".encode()}
            writer.write(data)
    assert sum(writer.lengths) == as_path(path).stat().length
    stored = list(tf.data.TFRecordDataset(path).as_numpy_iterator())
    assert [decode_example(data)["image"] for data in stored] == images
    assert writer.lengths == [len(data) + 16 for data in stored]
