"""Indexes of embeddings: from files to queries, interrupted builds, damage."""

import json
import random
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.helpers.processes import run_cli
from universal_embedding.app import vector_index_build
from universal_embedding.app.leave_one_out import leave_one_out, make_report
from universal_embedding.app.searchable import open_index
from universal_embedding.app.vector_index import VectorIndex
from universal_embedding.app.vector_index_build import VectorIndexConfig, build_vector_index
from universal_embedding.errors import UserError
from universal_embedding.search.exact import BruteForce

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def unit_rows(count, dim=6, seed=0):
    rows = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def write_parts(folder, rows, sizes, labels=None, errors=()):
    """Files like those of `embed`, named `c/ROW`."""
    folder.mkdir(exist_ok=True)
    start = 0
    for number, size in enumerate(sizes):
        part = slice(start, start + size)
        ids = range(start, start + size)
        columns = {"name": [f"c/{i}.png" for i in ids]}
        columns["error"] = ["cannot decode" if i in errors else None for i in ids]
        if labels is not None:
            columns["label"] = [[labels[i]] for i in ids]
        np.save(folder / f"part-{number:05d}.npy", rows[part].astype(np.float16))
        parquet.write_table(pa.table(columns), folder / f"part-{number:05d}.parquet")
        start += size
    return folder


def naive_search(rows, query, k, without=()):
    order = sorted(range(len(rows)), key=lambda i: (np.linalg.norm(rows[i] - query), i))
    return [i for i in order if i not in without][:k]


CONFIG = VectorIndexConfig(rows_per_shard=7, dtype="float16")


def test_rows_of_all_parts_are_found_by_row_vector_and_name(tmp_path):
    rows = unit_rows(24)
    rows[3] = 0
    source = write_parts(tmp_path / "parts", rows, [10, 5, 9], errors=[3, 20])
    summary = build_vector_index(source, tmp_path / "i", CONFIG)
    assert vars(summary) == {"num_rows": 24, "num_empty": 2, "num_shards": 4, "num_built": 4}
    index = open_index(tmp_path / "i")
    assert isinstance(index, VectorIndex) and index.is_exact and len(index) == 24
    stored = rows.astype(np.float16).astype(np.float32)
    for query in (0, 6, 7, 14, 23):
        hits = index.search(query, k=6)
        expected = naive_search(stored, stored[query], 6, {query, 3, 20})
        assert [hit.index for hit in hits] == expected
        assert [hit.name for hit in hits] == [f"c/{i}.png" for i in expected]
        assert hits[0].category == "c"
        distance = np.linalg.norm(stored[expected[0]] - stored[query])
        assert hits[0].distance == pytest.approx(distance, abs=2e-3)
        by_vector = index.search(5 * rows[query], k=7)
        assert [hit.index for hit in by_vector] == [query, *expected]
    assert index.position("23") == index.position("3/2") == 23
    assert index.position("1/0") == 7 and index.neighbors.locate(23) == (3, 2)
    for row in ("24", "0/7", "4/0", "-1", "x", "1/"):
        with pytest.raises(UserError, match="there is no row"):
            index.position(row)
    with pytest.raises(UserError, match="has no row 3"):
        index.search(3)
    with pytest.raises(UserError, match=r"shape \(5,\)"):
        index.search(np.ones(5, np.float32))
    with pytest.raises(UserError, match="give --model to search with an image"):
        index.search(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UserError, match="name no category"):
        index.search(0, category="c")


def test_vectors_of_other_programs_come_to_the_same_form(tmp_path):
    rows = unit_rows(9)
    (tmp_path / "v").mkdir()
    np.save(tmp_path / "v" / "a.npy", 100 * rows[:2].astype(np.float64))
    names = np.array(["x", "y", "z"])
    np.savez(tmp_path / "v" / "b.npz", embedding=rows[2:5], image_id=names, domain=names)
    np.savez(tmp_path / "v" / "c.npz", embedding=rows[5:7])
    np.save(tmp_path / "v" / "d.npy", rows[7:])
    parquet.write_table(
        pa.table({"name": ["p", "q"], "label": ["l", None]}), tmp_path / "v" / "d.parquet"
    )
    build_vector_index(tmp_path / "v", tmp_path / "i", VectorIndexConfig(dtype="float32"))
    index = VectorIndex.load(tmp_path / "i")
    assert [index.names[i] for i in range(9)] == [
        *("a/0", "a/1", "x", "y", "z", "c/0", "c/1", "p", "q"),
    ]
    assert [index.names.category(i) for i in range(9)] == ["a", "a", "", "", "", "c", "c", "l", ""]
    np.testing.assert_allclose(index.neighbors.rows(np.arange(9)), rows, atol=1e-6)
    build_vector_index(tmp_path / "v" / "b.npz", tmp_path / "j", VectorIndexConfig())
    assert len(VectorIndex.load(tmp_path / "j")) == 3


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda d: np.save(d / "part-00001.npy", np.ones((4, 5))), "of 5 numbers"),
        (lambda d: np.save(d / "part-00001.npy", np.ones(4)), r"has shape \(4,\)"),
        (lambda d: np.save(d / "part-00001.npy", np.array([["a"]])), "must be"),
        (
            lambda d: np.save(d / "part-00001.npy", np.full((4, 6), np.nan)),
            "row 0 of .* not finite",
        ),
        (lambda d: np.save(d / "part-00001.npy", np.ones((5, 6))), "4 names"),
        (lambda d: (d / "part-00001.npy").write_bytes(b"\x93NUMPY"), "cannot be read"),
        (lambda d: (d / "part-00001.parquet").write_bytes(b"PAR1"), "cannot be read"),
        (lambda d: np.savez(d / "x.npz", rows=np.ones((4, 6))), "none called 'embedding'"),
        (lambda d: (d / "embeddings.json").write_text('{"num_images": 9}'), "8 of 9 embeddings"),
    ],
)
def test_what_is_wrong_with_the_files_is_one_line(write, reason, tmp_path):
    source = write_parts(tmp_path / "parts", unit_rows(8), [4, 4])
    write(source)
    with pytest.raises(UserError, match=reason) as info:
        build_vector_index(source, tmp_path / "i", CONFIG)
    assert "\n" not in str(info.value)
    assert not (tmp_path / "i" / "index.json").exists()


def test_killed_build_leaves_the_older_index_and_resumes(tmp_path, monkeypatch):
    rows = unit_rows(30)
    build_vector_index(write_parts(tmp_path / "old", rows[:8], [8]), tmp_path / "i", CONFIG)
    source = write_parts(tmp_path / "new", rows, [30])
    save, saved = BruteForce.save, []

    def save_two(self, folder):
        if len(saved) == 2:
            raise KeyboardInterrupt
        saved.append(folder)
        save(self, folder)

    monkeypatch.setattr(BruteForce, "save", save_two)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            build_vector_index(source, tmp_path / "i", CONFIG)
        assert len(VectorIndex.load(tmp_path / "i")) == 8
    monkeypatch.setattr(BruteForce, "save", save)
    summary = build_vector_index(source, tmp_path / "i", CONFIG)
    assert (summary.num_shards, summary.num_built) == (5, 3)
    assert [p.name for p in (tmp_path / "i").glob("shards-*")] == [saved[0].parent.name]
    assert len(VectorIndex.load(tmp_path / "i")) == 30
    assert build_vector_index(source, tmp_path / "i", CONFIG).num_built == 0
    other = VectorIndexConfig(rows_per_shard=7, dtype="int8")
    assert build_vector_index(source, tmp_path / "i", other).num_built == 5


def test_damaged_or_missing_pieces_are_named(tmp_path):
    build_vector_index(write_parts(tmp_path / "p", unit_rows(20), [20]), tmp_path / "i", CONFIG)
    (shards,) = (tmp_path / "i").glob("shards-*")
    names = (shards / "names-00001.arrow").read_bytes()
    (shards / "names-00001.arrow").write_bytes(names[:-1])
    with pytest.raises(UserError, match=r"names-00001.arrow has \d+ bytes instead"):
        VectorIndex.load(tmp_path / "i")
    (shards / "names-00001.arrow").write_bytes(names)
    rows = shards / "shard-00002" / "rows.npy"
    rows.write_bytes(rows.read_bytes()[:-2] + b"xy")
    with pytest.raises(UserError, match=r"shard-00002.*rows.npy is damaged"):
        VectorIndex.load(tmp_path / "i")
    (tmp_path / "i" / "index.json").write_text("{}")
    with pytest.raises(UserError, match="holds no index"):
        VectorIndex.load(tmp_path / "i")


def test_a_directory_of_something_else_is_refused(index, model, tmp_path):
    source = write_parts(tmp_path / "p", unit_rows(5), [5])
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("")
    with pytest.raises(UserError, match=r"something else .*a\.txt"):
        build_vector_index(source, tmp_path / "notes", CONFIG)
    index.save(tmp_path / "images.index")
    with pytest.raises(UserError, match="something else than an index of embeddings"):
        build_vector_index(source, tmp_path / "images.index", CONFIG)
    build_vector_index(source, tmp_path / "i", CONFIG)
    with pytest.raises(UserError, match="is an index of embeddings"):
        type(index).load(tmp_path / "i", model)


def test_rows_search_each_other_by_label(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    labels = [f"class {i % 6}" for i in range(60)] + ["alone"]
    centers = dict(zip(sorted(set(labels)), unit_rows(7, 16), strict=True))
    rows = np.stack([centers[label] for label in labels]) + 0.3 * rng.standard_normal((61, 16))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    rows[5] = 0
    build_vector_index(
        write_parts(tmp_path / "p", rows, [25, 36], labels),
        tmp_path / "i",
        VectorIndexConfig(rows_per_shard=20, dtype="float16"),
    )
    index = VectorIndex.load(tmp_path / "i")
    report = make_report(leave_one_out(index), 0.9)
    stored = rows.astype(np.float16).astype(np.float32)
    scores, hits = [], 0
    for query in set(range(60)) - {5}:
        found = naive_search(stored, stored[query], 5, {query, 5})
        scores.append(np.mean([labels[i] == labels[query] for i in found]))
        hits += labels[found[0]] == labels[query]
    assert (report["num_images"], report["num_singletons"]) == (59, 1)
    assert report["mmp_at_5"] == pytest.approx(np.mean(scores))
    assert report["r_at_1"] == pytest.approx(hits / 59)
    assert len(leave_one_out(index, num_queries=10)) == 10


def test_model_of_the_embeddings_searches_by_image(folder, model, other_model, tmp_path):
    from tests.app.test_embedding_parts import embed

    embed(folder, tmp_path / "parts")
    build_vector_index(tmp_path / "parts", tmp_path / "i", CONFIG)
    index = VectorIndex.load(tmp_path / "i", model)
    hits = index.search(folder / "green" / "2.png", k=4)
    assert hits[0].name == "green/2.png" and hits[0].distance < 0.01
    assert {hit.category for hit in hits} == {"green"}
    assert index.image_path(hits[0].index) == folder / "green" / "2.png"
    (folder / "green" / "2.png").unlink()
    assert index.image_path(hits[0].index) is None
    with pytest.raises(UserError, match="did not make these embeddings"):
        VectorIndex.load(tmp_path / "i", other_model)


def test_server_answers_from_rows_and_shows_the_images_there_are(folder, model, tmp_path):
    from starlette.testclient import TestClient

    from tests.app.test_embedding_parts import embed
    from universal_embedding.app import pages, server

    embed(folder, tmp_path / "parts")
    build_vector_index(tmp_path / "parts", tmp_path / "i", CONFIG)
    index = VectorIndex.load(tmp_path / "i", model)
    (folder / "red" / "1.png").unlink()
    app = server.make_app(index, pages.ServerLimits(), None, ("127.0.0.1",))
    with TestClient(app, "http://127.0.0.1") as client:
        about = client.get("/api/index").json()
        assert (about["num_images"], about["categories"]) == (12, {})
        assert [example["image"] for example in about["examples"]] == list(range(12))
        answer = client.get("/api/search?image=8&k=3").json()
        expected = [hit.name for hit in index.search(8, k=3)]
        assert [match["name"] for match in answer["matches"]] == expected
        urls = {e["name"]: e["url"] for e in about["examples"]}
        assert urls["red/1.png"] is None and urls["red/0.png"] == "/images/8"
        assert client.get("/images/9").status_code == 404
        assert client.get("/api/search?image=8&category=red").status_code == 422


def test_large_shards_are_approximate_and_small_ones_exact(tmp_path, monkeypatch):
    source = write_parts(tmp_path / "p", unit_rows(21_000, 8), [21_000])
    config = VectorIndexConfig(search="approximate", target_recall=0.9)
    build_vector_index(source, tmp_path / "i", config)
    index = VectorIndex.load(tmp_path / "i")
    assert not index.is_exact and "21,000 int8 rows in 1 shards" in index.describe_approximation()
    assert index.search(17, k=1)[0].distance < 1
    monkeypatch.setattr(vector_index_build, "MAX_SHARD_FLOATS", 8 * 9000)
    build_vector_index(source, tmp_path / "j", VectorIndexConfig())
    exact = VectorIndex.load(tmp_path / "j")
    assert exact.is_exact and len(exact.neighbors.shards) == 3


PROGRAM = """
import sys
from pathlib import Path
from universal_embedding.app.vector_index_build import VectorIndexConfig, build_vector_index
build_vector_index(sys.argv[1], Path(sys.argv[2]), VectorIndexConfig(200, "float16"))
"""


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_bytes(tmp_path):
    source = write_parts(tmp_path / "p", unit_rows(8000), [3000, 5000])
    config = VectorIndexConfig(200, "float16")
    build_vector_index(source, tmp_path / "whole", config)
    output, rng = tmp_path / "killed", random.Random(0)
    for count in (0, 9, 20, 33):
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(source), str(output)])
        while process.poll() is None and len(list(output.glob("*/shard-*/index.json"))) < count:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.wait()
        assert not (output / "index.json").exists()
    assert build_vector_index(source, output, config).num_built <= 40 - 33

    def content(folder):
        files = [path for path in folder.rglob("*") if path.is_file()]
        return {
            path.relative_to(folder): path.read_bytes()
            for path in files
            if not path.name.startswith(".")
        }

    assert content(output) == content(tmp_path / "whole")


@pytest.mark.slow
def test_command_from_vectors_to_matches(tmp_path):
    rows = unit_rows(30)
    source = write_parts(tmp_path / "p", rows, [30], [f"l{i % 3}" for i in range(30)])
    np.save(tmp_path / "q.npy", rows[4])
    index = f"--index={tmp_path / 'i'}"
    build = ("index", f"--embeddings={source}", f"--output={tmp_path / 'i'}", "--rows_per_shard=12")
    code, out, err = run_cli(*build)
    assert code == 0, err
    assert "30 rows in 3 shards, 3 built now; 0 rows without an embedding" in out
    code, out, err = run_cli("query", index, f"--vector={tmp_path / 'q.npy'}", "--k=2")
    assert code == 0, err
    assert out.splitlines()[0].endswith("c/4.png") and len(out.splitlines()) == 2
    _, by_row, _ = run_cli("query", index, "--row=0/4", "--k=1")
    assert by_row.split()[1] == out.splitlines()[1].split()[1]  # distances differ by rounding
    report = tmp_path / "report.json"
    code, out, err = run_cli("evaluate-index", index, f"--report={report}")
    assert code == 0, err
    assert json.loads(report.read_text())["num_images"] == 30
    for flags in (["--row=1", "--vector=x"], [], ["--row=99"], ["--vector=absent.npy"]):
        code, _, err = run_cli("query", index, *flags)
        assert code == 1 and err.count("\n") == 1
