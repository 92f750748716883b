"""Writing shards: resumed after a kill, and of about equal sizes."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.layouts import toys_builder
from tests.helpers.ram import enable_ram_paths
from universal_embedding.datasets import prepare, shards
from universal_embedding.datasets.examples import Labels, SplitManifest
from universal_embedding.datasets.records import list_prepared_domains, open_records
from universal_embedding.errors import UserError
from universal_embedding.files import as_path

enable_ram_paths()
pytestmark = pytest.mark.usefixtures("small_shards")


class Killed(BaseException):
    """Stands for SIGKILL."""


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
    builder = toys_builder(data_dir)
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
    builder = toys_builder(tmp_path)
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
        prepare.prepare(toys_builder(tmp_path), root)
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
        assert prepare.prepare(toys_builder(tmp_path, **options), root)
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

    builder = toys_builder(tmp_path)
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
    file = toys_builder(tmp_path).folder / "dataset_info.json"
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    with pytest.raises(UserError, match=r"holds dataset_info\.json, which no preparation left"):
        prepare.prepare(toys_builder(tmp_path), root)
    assert file.exists()


def test_corrupt_image_may_be_replaced_or_skipped_without_writing_the_rest_again(root, tmp_path):
    file = root / "images/toys/7.jpg"
    data = file.read_bytes()
    file.write_bytes(b"")
    with pytest.raises(UserError, match=r"7\.jpg.*empty.*--skip_corrupt"):
        prepare.prepare(toys_builder(tmp_path), root)
    with watch_shards(kill_in=2) as begun:
        prepare.prepare(toys_builder(tmp_path, skip_corrupt=True), root)
    assert [name[-14:-9] for name in begun] == ["00002", "00003"]
    with pytest.raises(UserError, match=r"7\.jpg.*empty.*--skip_corrupt"):  # it was skipped before
        prepare.prepare(toys_builder(tmp_path), root)
    file.write_bytes(data)
    assert prepare.prepare(toys_builder(tmp_path), root)
    assert open_records(tmp_path, "small", "toys", "train").read([7]) == [data]


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
