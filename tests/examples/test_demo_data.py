"""The demo's images on disk: layout, determinism, and directories that exist already."""

import dataclasses
import json
from pathlib import Path

import pytest
from PIL import Image

from examples import demo
from examples.demo_data import DOMAINS, DemoDomain, render_domains, render_gallery
from examples.demo_data.scene import Subject
from tests.helpers import processes
from universal_embedding.errors import UserError

SMALL = [
    dataclasses.replace(
        domain,
        num_photos=2,
        num_studio_images=min(domain.num_studio_images, 1),
        num_classes={"train": 2, "val": 1, "test": 1},
    )
    for domain in DOMAINS
]


def contents(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("rendered") / "small"
    count = render_domains(output, seed=3, domains=SMALL)
    assert count == sum(4 * (d.num_photos + d.num_studio_images) for d in SMALL)
    return output


def test_demo_has_eight_domains_of_forty_classes_or_more():
    assert len(DOMAINS) == 8
    assert sum(domain.num_studio_images > 0 for domain in DOMAINS) == 2
    for domain in DOMAINS:
        assert sum(domain.num_classes.values()) >= 40
        assert domain.num_photos + domain.num_studio_images >= 12


def test_layout_is_that_of_uned(rendered):
    for domain in SMALL:
        info = rendered / "info_files" / domain.key
        class_names = json.loads((info / "class_names.json").read_text())
        assert len(class_names) == len(set(class_names)) == 4
        class_ids = {}
        for split in ("train", "val", "test", "index"):
            if split == "index" and not domain.num_studio_images:
                assert not (info / "index.json").exists()
                continue
            rows = json.loads((info / f"{split}.json").read_text())
            class_ids[split] = {row["class_id"] for row in rows}
            for row in rows:
                assert Path(row["path"]).parts[:2] == (domain.key, class_names[row["class_id"]])
                with Image.open(rendered / "images" / row["path"]) as image:
                    assert (image.format, image.size) == ("JPEG", domain.subject.size)
        assert not class_ids["train"] & class_ids["val"]
        assert not class_ids["train"] & class_ids["test"]
        assert not class_ids["val"] & class_ids["test"]
        assert class_ids.get("index", class_ids["test"]) == class_ids["test"]


def test_every_image_is_in_one_split(rendered):
    paths = [
        row["path"]
        for file in rendered.glob("info_files/*/*.json")
        if file.name != "class_names.json"
        for row in json.loads(file.read_text())
    ]
    on_disk = {str(path.relative_to(rendered / "images")) for path in rendered.rglob("*.jpg")}
    assert len(paths) == len(set(paths)) and set(paths) == on_disk


def test_all_images_differ(rendered):
    images = [data for name, data in contents(rendered).items() if name.endswith(".jpg")]
    assert len(images) == len(set(images))


def test_same_seed_gives_same_bytes_for_any_number_of_processes(rendered, tmp_path):
    render_domains(tmp_path / "again", seed=3, num_processes=2, domains=SMALL)
    assert contents(tmp_path / "again") == contents(rendered)


def test_bytes_of_a_domain_do_not_depend_on_the_other_domains(rendered, tmp_path):
    render_domains(tmp_path / "one", seed=3, domains=SMALL[3:4])
    every = contents(rendered)
    for name, data in contents(tmp_path / "one").items():
        if Path(name).suffix in (".jpg", ".json"):
            assert every[name] == data


def test_another_seed_gives_other_images(rendered, tmp_path):
    render_domains(tmp_path / "other", seed=4, domains=SMALL[:1])
    images = {data for name, data in contents(tmp_path / "other").items() if name.endswith(".jpg")}
    assert len(images) == 8 and not images & set(contents(rendered).values())


def test_second_run_renders_nothing(rendered):
    before = contents(rendered)
    assert render_domains(rendered, seed=3, domains=SMALL) == 0
    assert contents(rendered) == before


def test_rendered_directory_is_renewed_for_another_seed(tmp_path):
    render_domains(tmp_path / "images", seed=1, domains=SMALL[:1])
    first = contents(tmp_path / "images")
    assert render_domains(tmp_path / "images", seed=2, domains=SMALL[:1]) > 0
    assert contents(tmp_path / "images") != first


def test_rendered_directory_is_renewed_for_other_splits(tmp_path):
    render_domains(tmp_path / "images", domains=SMALL[:1])
    other = dataclasses.replace(SMALL[0], num_classes={"train": 1, "val": 1, "test": 2})
    assert render_domains(tmp_path / "images", domains=[other]) == 8


def test_directory_with_other_files_is_refused_and_kept(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"image")
    with pytest.raises(UserError, match="holds other files"):
        render_domains(tmp_path, domains=SMALL[:1])
    assert contents(tmp_path) == {"holiday.jpg": b"image"}


def test_interrupted_run_leaves_nothing(tmp_path):
    def interrupt(rng):
        raise KeyboardInterrupt

    subject = Subject(interrupt, (8, 8), (0, 0, 0), (1, 1), ())
    with pytest.raises(KeyboardInterrupt):
        render_domains(tmp_path / "images", domains=[*SMALL[:1], DemoDomain("none", subject)])
    assert contents(tmp_path) == {}
    assert render_domains(tmp_path / "images", domains=SMALL[:1]) == 8


def test_gallery_has_twenty_images_in_each_of_five_categories(tmp_path):
    assert render_gallery(tmp_path / "gallery") == 100
    categories = [path for path in (tmp_path / "gallery").iterdir() if path.is_dir()]
    counts = {path.name: len(list(path.rglob("*.jpg"))) for path in categories}
    assert counts == dict.fromkeys(["Dog", "Food", "Garment", "Vehicle", "Location"], 20)


def test_output_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--output"):
        render_gallery(tmp_path / "file" / "gallery")


def test_script_prints_number_of_images_or_one_line_of_error(tmp_path):
    flags = ("--kind=gallery", "--processes=1")
    code, out, _ = processes.run("examples/render.py", f"--output={tmp_path}/new", *flags)
    assert code == 0 and out == f"{tmp_path}/new: 100 images rendered\n"
    (tmp_path / "file").write_text("")
    code, _, err = processes.run("examples/render.py", f"--output={tmp_path}", *flags)
    assert code == 1 and err.startswith("error: ") and err.count("\n") == 1


@pytest.mark.parametrize("content", ["index/thesis.txt", "submission.zip"])
def test_demo_overwrites_no_directory_of_someone_else(content, tmp_path):
    precious = tmp_path / "project" / content
    precious.parent.mkdir(parents=True)
    precious.write_text("precious")
    code, out, err = processes.run("examples/demo.py", f"--output={tmp_path / 'project'}")
    assert code == 1 and not out and err.count("\n") == 1 and "holds other files" in err
    assert precious.read_text() == "precious"


def test_demo_removes_its_own_exports_with_their_cards(tmp_path):
    demo.claim(tmp_path / "demo")
    demo.claim(tmp_path / "demo")
    exports = ("submission.zip", "submission.zip.card.md", "saved_model/a", "saved_model.card.json")
    for name in (*exports, "index/index.json", "report/report.md", "run/config.json"):
        (tmp_path / "demo" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "demo" / name).write_text("x")
    demo.remove_exports(tmp_path / "demo")
    names = {p.name for p in (tmp_path / "demo").iterdir()}
    assert names == {".demo", "report", "run"}
