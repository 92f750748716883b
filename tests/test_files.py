"""Paths and atomic writes, on a local disk and on a bucket."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.ram import enable_ram_paths
from universal_embedding.errors import UserError
from universal_embedding.files import (
    as_path,
    atomic_directory,
    atomic_write,
    fetch,
    file_size,
    is_remote,
    list_directory,
    local_path,
    reporting_storage_errors,
)

enable_ram_paths()


def test_names_of_objects_cannot_leave_the_copy_of_a_bucket(tmp_path, monkeypatch):
    """An object store keeps `..` in a name as it is."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "a/b"))
    (tmp_path / "a/b").mkdir(parents=True)
    path, name = as_path("ram://hostile/model"), "../../../escaped.txt"
    path.mkdir(parents=True)
    with tf.io.gfile.GFile(f"{path}/{name}", "w") as file:
        file.write("content")
    monkeypatch.setattr(type(path), "walk", lambda self: iter([(self, [], [name])]))
    with pytest.raises(UserError, match=r"holds the unsafe name .*\.\./.*: refused"):
        fetch(path)
    assert not list(tmp_path.rglob("escaped*"))


def test_upload_that_fails_is_one_line(monkeypatch):
    def fail(*_, **__):
        raise tf.errors.UnavailableError(None, None, "503\nService Unavailable")

    path = as_path("ram://unavailable/metrics.jsonl")
    monkeypatch.setattr(type(path), "open", fail)
    message = r"cannot access ram://unavailable/.* \(503 Service Unavailable"
    with pytest.raises(UserError, match=message), atomic_write(path) as file:
        file.write("row")


@pytest.fixture(params=["local", "ram"])
def folder(request, tmp_path):
    return as_path(tmp_path if request.param == "local" else f"ram://bucket{tmp_path}")


def test_paths_keep_their_file_system(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert str(as_path("gs://bucket/a") / "b") == "gs://bucket/a/b"
    assert as_path(as_path("gs://bucket/a")) == as_path("gs://bucket/a")
    assert Path(as_path("~/a")) == tmp_path / "a" == Path(as_path(Path("~/a")))
    assert is_remote("gs://bucket/a") and is_remote(as_path("gs://bucket/a"))
    assert not is_remote("gs:/bucket/a") and not is_remote(as_path("/a"))
    assert local_path("~/a", "--index") == tmp_path / "a"


def test_what_cannot_work_is_refused_in_one_line():
    with pytest.raises(UserError, match=r"ftp://host/a: ftp:// is not supported.*gs://"):
        as_path("ftp://host/a")
    with pytest.raises(UserError, match=r"--index=gs://b/a must be on a local disk"):
        local_path("gs://b/a", "--index")
    error = tf.errors.PermissionDeniedError(None, None, "no\n access")
    expected = pytest.raises(UserError, match=r"^cannot access gs://b/a \(no access\); check")
    with expected, reporting_storage_errors("gs://b/a"):
        raise error
    with pytest.raises(ZeroDivisionError), reporting_storage_errors("gs://b/a"):
        raise ZeroDivisionError


def test_file_is_replaced_whole_or_stays(folder):
    path = folder / "new" / "a.txt"
    for text in ("é\n" * 100, "short"):
        with atomic_write(path) as file:
            file.write(text)
        assert path.read_text() == text
        assert file_size(path) == len(text.encode())
    with pytest.raises(ZeroDivisionError), atomic_write(path) as file:
        file.write("half")
        raise ZeroDivisionError
    assert path.read_text() == "short"
    assert [p.name for p in list_directory(folder / "new")] == ["a.txt"]
    assert file_size(folder / "none") is None


def test_libraries_that_seek_can_write(folder):
    with atomic_write(folder / "a.npz", "wb") as file:
        np.savez(file, a=np.arange(5))
    with (folder / "a.npz").open("rb") as file, np.load(file) as arrays:
        assert arrays["a"].tolist() == [0, 1, 2, 3, 4]
    with atomic_write(folder / "a.zip", "wb") as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x", "y")
    with (folder / "a.zip").open("rb") as file:
        assert zipfile.ZipFile(file).read("x") == b"y"


def test_directory_appears_with_all_its_files(folder):
    path = folder / "model"
    with pytest.raises(ZeroDivisionError), atomic_directory(path) as partial:
        (partial / "a").write_text("1")
        raise ZeroDivisionError
    assert not path.exists()
    with atomic_directory(path) as partial:
        (partial / "sub").mkdir()
        (partial / "sub/b").write_text("2")
        (partial / "a").write_text("1")
    assert [p.name for p in list_directory(path)] == ["a", "sub"]
    assert (path / "sub/b").read_text() == "2"
    with pytest.raises(UserError, match="already exists"), atomic_directory(path):
        pass


def test_directory_is_listed_whatever_its_name(folder):
    (folder / "[1]*").mkdir(parents=True)
    for name in ("b", "a"):
        (folder / "[1]*" / name).write_text("x")
    assert [p.name for p in list_directory(folder / "[1]*")] == ["a", "b"]
    assert list_directory(folder / "none") == []
