"""Groups of near-duplicates in an index: `universal-embedding duplicates`."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.helpers.image_folder import draw_color
from tests.helpers.random_domains import unit_grid
from universal_embedding.app import duplicates
from universal_embedding.app.duplicates import EDITS, find_duplicates, group_pairs, similar_pairs
from universal_embedding.app.image_index import ImageIndex
from universal_embedding.cli import main
from universal_embedding.errors import UserError
from universal_embedding.reporting.duplicates_page import write_duplicates_page
from universal_embedding.search.exact import BlockedTopK


@settings(max_examples=30)
@given(st.integers(1, 60), st.floats(-0.2, 1.0), st.integers(0, 2**32 - 1))
def test_pairs_and_groups_equal_naive_ones(num_rows, threshold, seed):
    rng = np.random.default_rng(seed)
    rows = unit_grid(rng, num_rows)
    search = BlockedTopK()
    search.index(rows)
    pairs, similarities = similar_pairs(rows, threshold, search)
    expected = {
        (i, j): float(rows[i] @ rows[j])
        for i in range(num_rows)
        for j in range(i + 1, num_rows)
        if rows[i] @ rows[j] >= threshold
    }
    found = dict(zip(map(tuple, pairs.tolist()), similarities.tolist(), strict=True))
    assert found == expected
    groups = group_pairs(pairs, similarities, num_rows)
    partition = [{i} for i in range(num_rows)]
    for i, j in expected:
        a, b = (next(s for s in partition if x in s) for x in (i, j))
        if a is not b:
            partition.remove(b)
            a |= b
    assert sorted(map(sorted, (s for s in partition if len(s) > 1))) == sorted(
        group.images for group in groups
    )
    for group in groups:
        inside = [s for (i, _), s in expected.items() if i in group.images]
        assert group.similarity == min(inside) and group.is_equal == (min(inside) > 1 - 1e-6)
    assert [len(g.images) for g in groups] == sorted((len(g.images) for g in groups), reverse=True)


def test_rows_with_many_neighbors_stay_one_group(monkeypatch):
    monkeypatch.setattr(duplicates, "_MAX_NEIGHBORS", 16)
    rows = np.zeros((200, 4), np.float32)
    rows[:150, 0] = rows[150:, 1] = 1
    search = BlockedTopK()
    search.index(rows)
    groups = group_pairs(*similar_pairs(rows, 0.9, search), len(rows))
    assert [group.images for group in groups] == [[*range(150)], [*range(150, 200)]]


@pytest.fixture
def copies(folder):
    """Edited copies of two images of the folder beside them, and one equal file."""
    for color, seed in (("red", 0), ("blue", 20)):
        image = draw_color(color, seed)
        for number, edit in enumerate(EDITS.values()):
            edit(image).save(folder / color / f"copy{number}.png")
    (folder / "green" / "same <b>.png").write_bytes((folder / "green" / "2.png").read_bytes())
    return folder


def test_edited_copies_are_grouped_with_their_original(copies, model):
    index = ImageIndex.build(model, copies)
    thresholds, groups = find_duplicates(index)
    names = [{index.names[i] for i in group.images} for group in groups]
    for color in ("red", "blue"):
        expected = {f"{color}/0.png", *(f"{color}/copy{n}.png" for n in range(len(EDITS)))}
        assert len(expected & max(names, key=lambda g: len(g & expected))) >= 4
    equal = [g for g in groups if g.is_equal]
    assert [{index.names[i] for i in g.images} for g in equal] == [
        {"green/2.png", "green/same <b>.png"}
    ]
    assert all(share >= 0.75 for share in thresholds.recall.values())
    originals = [f"{color}/{i}.png" for color in ("red", "blue") for i in range(1, 4)]
    assert not any(name in group for name in originals for group in names)


def test_images_that_only_the_model_takes_for_one_are_not_duplicates(copies, model):
    index = ImageIndex.build(model, copies)
    index.files.embeddings[:] = index.files.embeddings[0]  # a model that sees no difference
    _, groups = find_duplicates(index)
    assert max(len(group.images) for group in groups) < len(index) / 2
    _, groups = find_duplicates(index, compare_pixels=False)
    assert [len(group.images) for group in groups] == [len(index)]


def test_threshold_is_taken_or_refused(copies, model):
    index = ImageIndex.build(model, copies)
    thresholds, groups = find_duplicates(index, threshold=1.0 - 1e-6)
    assert thresholds.embedding == 1.0 - 1e-6 and all(group.is_equal for group in groups)
    with pytest.raises(UserError, match=r"threshold is 1\.5; a cosine similarity"):
        find_duplicates(index, threshold=1.5)
    for path in copies.rglob("*.png"):
        path.unlink()
    with pytest.raises(UserError, match="can be read: give --threshold"):
        find_duplicates(index)
    assert find_duplicates(index, 0.9999999, compare_pixels=False)[1]


def test_page_shows_groups_and_escapes_names(copies, model, tmp_path):
    index = ImageIndex.build(model, copies)
    thresholds, groups = find_duplicates(index)
    report = duplicates.make_report(index, thresholds, groups)
    (copies / "green" / "2.png").unlink()
    paths = [duplicates.image_paths(index, group) for group in groups]
    write_duplicates_page(report, paths, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "same &lt;b&gt;.png" in page and "<b>.png" not in page
    assert page.count("<figure>") == sum(len(group.images) for group in groups)
    assert page.count("cannot be read") == 1 and "<script" not in page


def test_command_prints_groups_and_writes_report(copies, model, tmp_path, monkeypatch, capsys):
    index = ImageIndex.build(model, copies)
    index.save(tmp_path / "photos.index")
    monkeypatch.setattr("universal_embedding.app.image_index.open_model", lambda *_: model)
    monkeypatch.setattr("universal_embedding.app.searchable.open_index", lambda *_: index)
    report, page = tmp_path / "pairs.json", tmp_path / "pairs.html"
    flags = [f"--index={tmp_path / 'photos.index'}", f"--report={report}", f"--page={page}"]
    with pytest.raises(SystemExit, match="0"):
        main(["duplicates", *flags])
    out = capsys.readouterr().out
    content = json.loads(report.read_text())
    assert f"{len(content['groups'])} groups in {len(index)} images" in out
    assert "green/2.png" in out and page.is_file()
    assert content["num_duplicates"] == sum(len(g["names"]) - 1 for g in content["groups"])
    assert Image.open(copies / "red" / "0.png").size == (40, 50)  # nothing was touched
