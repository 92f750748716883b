"""The eight domains in miniature, in the layout as published, read back through TFDS."""

import hashlib
import http.server
import threading
import zipfile
from functools import partial

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests.helpers.layouts import write_uned_layout
from universal_embedding.datasets import domains, prepare
from universal_embedding.datasets.domains import UNED, DownloadArchive
from universal_embedding.datasets.image_files import read_image
from universal_embedding.datasets.records import (
    list_prepared_domains,
    open_query_and_index,
    open_records,
)
from universal_embedding.datasets.uned import Uned
from universal_embedding.errors import UserError

PATHS = {  # one training, one validation and two test images, as in the authors' files
    "cars": ["cars/car_ims/000001.jpg", "cars/car_ims/000002.jpg"]
    + ["cars/car_ims/016184.jpg", "cars/car_ims/016185.jpg"],
    "sop": ["sop/bicycle_final/111085122871_0.JPG", "sop/chair_final/1.JPG"]
    + ["sop/kettle_final/2.JPG", "sop/kettle_final/3.JPG"],
    "inshop": [
        f"deepfashion/inshop/img/{name}"
        for name in (
            "WOMEN/Dresses/id_00000002/02_1_front.jpg",
            "MEN/Denim/id_00000080/01_1_front.jpg",
            "MEN/Denim/id_00000089/01_1_front.jpg",
            "MEN/Denim/id_00000089/01_2_side.jpg",
        )
    ],
    "inat": [f"inat/iNaturalist/train_val2018/Aves/2761/{i}.jpg" for i in range(4)],
    "met": [
        "met/MET/1/0.jpg",
        "met/test_other/a.jpg",
        "met/test_met/b.jpg",
        "met/test_noart/c.jpg",
    ],
    "gldv2": [
        f"gldv2/images/{name}"
        for name in ("train/0/1/2/012.jpg", "train/3/4/5/345.jpg", "test/a/b.jpg", "test/a/c.jpg")
    ],
    "food2k": [f"food2k/Food2k_complete/{i}/{i}_0.jpg" for i in range(4)],
    "rp2k": ["rp2k/all/train/农夫山泉/0.jpg", "rp2k/all/train/b/1.jpg"]
    + ["rp2k/all/test/康师傅é/2.jpg", "rp2k/all/test/康师傅é/3.jpg"],
}
LABELS = {"gldv2": [7, 8, [9, 10], 9]}
INDEX = {
    "inshop": ["deepfashion/inshop/img/MEN/Denim/id_00000089/01_4_full.jpg"],
    "met": ["met/MET/1/0.jpg"],
    "gldv2": ["gldv2/images/index/9/9.jpg", "gldv2/images/index/9/8.jpg"],
}


def write_miniature(root, key):
    train, val, *test = PATHS[key]
    labels = LABELS.get(key, [0, 1, 2, 2])
    splits = {
        "train": [(train, labels[0])],
        "val": [(val, labels[1])],
        "test": list(zip(test, labels[2:], strict=True)),
    }
    if key in INDEX:
        splits["index"] = [(path, 9) for path in INDEX[key]]
    if key == "met":
        splits["small_index"] = splits["index"]
    write_uned_layout(root, key, splits)
    for folder in UNED[key].folders:
        (root / folder).mkdir(parents=True, exist_ok=True)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root, data_dir = tmp_path_factory.mktemp("manual"), tmp_path_factory.mktemp("data")
    for key in UNED:
        write_miniature(root, key)
    escaped = root / "images/rp2k/all/train/#U519c#U592b#U5c71#U6cc9"
    (root / "images/rp2k/all/train/农夫山泉").rename(escaped)
    for key in UNED:
        builder = Uned(key, data_dir=data_dir, allow_partial=True)
        assert prepare.prepare(builder, root)
    return root, data_dir


def test_domains_are_listed_in_the_published_order(prepared):
    assert list_prepared_domains(prepared[1], "uned") == list(UNED)


@pytest.mark.parametrize("key", UNED)
def test_tfds_load_equals_random_access(prepared, key):
    root, data_dir = prepared
    loaded = tfds.load(f"uned/{key}", data_dir=data_dir, download=False, split="test")
    records = open_records(data_dir, "uned", key, "test")
    examples = list(loaded.as_numpy_iterator())
    assert (
        [e["image_id"].decode() for e in examples] == records.image_ids.tolist() == PATHS[key][2:]
    )
    assert [e["label"].tolist() for e in examples] == [
        np.atleast_1d(label).tolist() for label in LABELS.get(key, [0, 1, 2, 2])[2:]
    ]
    assert all(e["image"].shape == (20, 24, 3) for e in examples)
    files = [(root / "images" / path).read_bytes() for path in PATHS[key][2:]]
    assert records.read(range(len(records))) == files
    assert [e["image"].tolist() for e in examples] == [read_image(f).tolist() for f in files]


def test_escaped_names_keep_the_published_id(prepared):
    assert open_records(prepared[1], "uned", "rp2k", "train").image_ids[0] == PATHS["rp2k"][0]


@pytest.mark.parametrize("key", UNED)
def test_index_of_val_and_test(prepared, key):
    _, index = open_query_and_index(prepared[1], "uned", key, "test")
    assert (index is not None) == UNED[key].has_separate_index
    _, index = open_query_and_index(prepared[1], "uned", key, "val")
    assert (index.split if index else None) == ("small_index" if key == "met" else None)


def test_second_run_changes_no_file(prepared):
    root, data_dir = prepared
    before = {path: path.stat().st_mtime_ns for path in (data_dir / "uned/cars").rglob("*")}
    builder = Uned("cars", data_dir=data_dir)
    assert not prepare.prepare(builder, root)
    assert {p: p.stat().st_mtime_ns for p in (data_dir / "uned/cars").rglob("*")} == before


def test_other_counts_are_an_error_with_both_numbers(prepared, tmp_path):
    with pytest.raises(UserError, match=r"train has 1 images, published 6,346.*--allow_partial"):
        prepare.prepare(Uned("cars", data_dir=tmp_path), prepared[0])
    assert not list(tmp_path.rglob("*record*"))


def test_missing_images_give_instructions(tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match=r"cars/car_ims.*http.*unpack"):
        prepare.prepare(Uned("cars", data_dir=tmp_path / "data"), tmp_path)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """Publishes the splits of cars in a zip on a local web server instead of the authors'."""
    write_miniature(tmp_path, "cars")
    info = tmp_path / "info_files"
    site = tmp_path / "site"
    site.mkdir()
    with zipfile.ZipFile(site / "info_files.zip", "w") as file:
        for path in info.rglob("*.json"):
            file.write(path, path.relative_to(tmp_path))
            path.unlink()
    (info / "cars").rmdir()
    info.rmdir()
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(QuietHandler, directory=str(site))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    data = (site / "info_files.zip").read_bytes()

    def publish(sha256=None, name="info_files.zip"):
        url = f"http://127.0.0.1:{server.server_port}/{name}"
        published = DownloadArchive(url, len(data), sha256 or hashlib.sha256(data).hexdigest())
        monkeypatch.setattr(domains, "INFO_FILES", published)

    yield publish
    server.shutdown()
    server.server_close()


def test_missing_splits_are_downloaded(archive, tmp_path):
    archive()
    builder = Uned("cars", data_dir=tmp_path / "data", allow_partial=True)
    prepare.prepare(builder, tmp_path)
    assert len(open_records(tmp_path / "data", "uned", "cars", "test")) == 2


@pytest.mark.parametrize("wrong", [{"sha256": "0" * 64}, {"name": "nothing.zip"}])
def test_failed_download_is_an_error(archive, tmp_path, wrong):
    archive(**wrong)
    builder = Uned("cars", data_dir=tmp_path / "data", allow_partial=True)
    with pytest.raises(UserError, match=r"cannot download.*info_files/"):
        prepare.prepare(builder, tmp_path)
    with pytest.raises(UserError, match="nothing is prepared"):
        list_prepared_domains(tmp_path / "data", "uned")
