"""The rendered trees: layout, determinism, and what stands there before."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from universal_embedding.datasets.rendered import tree
from universal_embedding.datasets.rendered.domains import DOMAINS
from universal_embedding.datasets.rendered.jobs import stream
from universal_embedding.datasets.rendered.names import names
from universal_embedding.errors import UserError

SMALL = tuple(
    replace(d, photos=2, catalogue=min(d.catalogue, 1), classes={"train": 2, "val": 1, "test": 1})
    for d in DOMAINS
)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("rendered") / "small"
    assert tree.render_domains(output, seed=3, domains=SMALL) == sum(
        4 * (d.photos + d.catalogue) for d in SMALL
    )
    return output


def test_the_demo_is_as_large_as_promised():
    assert len(DOMAINS) == 8
    assert sum(d.catalogue > 0 for d in DOMAINS) == 2
    for domain in DOMAINS:
        assert sum(domain.classes.values()) >= 40
        assert domain.photos + domain.catalogue >= 12


def test_layout_is_that_of_uned(rendered):
    for domain in SMALL:
        info = rendered / "info_files" / domain.key
        class_names = json.loads((info / "class_names.json").read_text())
        seen = {}
        for split in ("train", "val", "test", "index"):
            if split == "index" and not domain.catalogue:
                assert not (info / "index.json").exists()
                continue
            rows = json.loads((info / f"{split}.json").read_text())
            seen[split] = {row["class_id"] for row in rows}
            for row in rows:
                assert Path(row["path"]).parts[:2] == (domain.key, class_names[row["class_id"]])
                with Image.open(rendered / "images" / row["path"]) as image:
                    assert (image.format, image.size) == ("JPEG", domain.thing.size)
        assert not seen["train"] & seen["val"] and not seen["train"] & seen["test"]
        assert not seen["val"] & seen["test"]
        assert seen.get("index", seen["test"]) == seen["test"]


def test_every_picture_is_in_one_split(rendered):
    paths = [
        row["path"]
        for file in rendered.glob("info_files/*/*.json")
        if file.name != "class_names.json"
        for row in json.loads(file.read_text())
    ]
    on_disk = {str(p.relative_to(rendered / "images")) for p in rendered.rglob("*.jpg")}
    assert len(paths) == len(set(paths)) and set(paths) == on_disk


def test_same_seed_same_bytes_whatever_the_processes(rendered, tmp_path):
    tree.render_domains(tmp_path / "again", seed=3, processes=2, domains=SMALL)
    assert contents(tmp_path / "again") == contents(rendered)


def test_another_seed_other_pictures(rendered, tmp_path):
    tree.render_domains(tmp_path / "other", seed=4, domains=SMALL[:1])
    ours, theirs = contents(rendered), contents(tmp_path / "other")
    pictures = {data for name, data in theirs.items() if name.endswith(".jpg")}
    assert len(pictures) == 8 and not pictures & set(ours.values())


def test_a_second_run_draws_nothing(rendered):
    before = contents(rendered)
    assert tree.render_domains(rendered, seed=3, domains=SMALL) == 0
    assert contents(rendered) == before


def test_an_own_tree_is_renewed_for_another_seed(tmp_path):
    one = SMALL[:1]
    tree.render_domains(tmp_path / "t", seed=1, domains=one)
    first = contents(tmp_path / "t")
    assert tree.render_domains(tmp_path / "t", seed=2, domains=one) > 0
    assert contents(tmp_path / "t") != first


def test_a_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(UserError, match="did not render"):
        tree.render_domains(tmp_path, domains=SMALL[:1])
    assert contents(tmp_path) == {"holiday.jpg": b"mine"}


def test_an_interrupted_run_leaves_no_tree(tmp_path, monkeypatch):
    def fail(jobs, processes):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tree, "draw_all", fail)
        tree.render_domains(tmp_path / "t", domains=SMALL[:1])
    assert not (tmp_path / "t").exists()
    assert tree.render_domains(tmp_path / "t", domains=SMALL[:1]) == 8


def test_gallery_has_twenty_pictures_in_each_of_five_categories(tmp_path):
    assert tree.render_gallery(tmp_path / "gallery") == 100
    folders = [p for p in (tmp_path / "gallery").iterdir() if p.is_dir()]
    counts = {p.name: len(list(p.rglob("*.jpg"))) for p in folders}
    assert counts == dict.fromkeys(["Dog", "Food", "Garment", "Vehicle", "Location"], 20)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--output"):
        tree.render_gallery(tmp_path / "file" / "gallery")


def test_names_are_different():
    found = names(np.random.default_rng(0), 500)
    assert len(set(found)) == 500 and all(n.isalpha() and n.islower() for n in found)


def test_no_two_streams_are_the_same():
    streams = [(), (0,), (0, 0), (1,), (1, 0), (0, 1)]
    assert len({stream(5, "cars", *numbers).integers(2**62) for numbers in streams}) == 6
    assert stream(5, "cars").integers(2**62) != stream(5, "towers").integers(2**62)
