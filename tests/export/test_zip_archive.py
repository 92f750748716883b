import stat
import zipfile

import pytest

from tests.helpers.tiny_model import build_model
from universal_embedding.errors import UserError
from universal_embedding.export import zip_archive


def write_zip(path, names=zip_archive.FILES, content=b"0123456789", mode=None):
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            if mode:
                info.external_attr = mode << 16
            file.writestr(info, content)
    return path


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "..\\x", "C:\\x", "\\x"])
def test_extract_zip_refuses_unsafe_paths(tmp_path, name):
    path = write_zip(tmp_path / "s.zip", [*zip_archive.FILES, name])
    with pytest.raises(UserError, match="unsafe path"):
        zip_archive.extract_zip(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_extract_zip_refuses_links(tmp_path):
    path = write_zip(tmp_path / "s.zip", mode=stat.S_IFLNK | 0o777)
    with pytest.raises(UserError, match="link"):
        zip_archive.extract_zip(path, tmp_path / "out")


def test_extract_zip_refuses_more_than_max_bytes(tmp_path):
    path = write_zip(tmp_path / "s.zip", content=bytes(10**6))
    assert path.stat().st_size < 10**5
    with pytest.raises(UserError, match="3,000,000 bytes, more than 1,000,000"):
        zip_archive.extract_zip(path, tmp_path / "out", max_bytes=10**6)


def test_extract_zip_refuses_a_saved_model_below_the_root(tmp_path):
    path = write_zip(tmp_path / "s.zip", [f"model/{name}" for name in zip_archive.FILES])
    with pytest.raises(UserError, match=r"no saved_model\.pb at its root"):
        zip_archive.extract_zip(path, tmp_path / "out")


def test_extract_zip_refuses_missing_and_damaged_files(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        zip_archive.extract_zip(tmp_path / "none.zip", tmp_path / "out")
    (tmp_path / "text.zip").write_text("not a zip")
    with pytest.raises(UserError, match="cannot be extracted"):
        zip_archive.extract_zip(tmp_path / "text.zip", tmp_path / "out")
    path = write_zip(tmp_path / "s.zip", content=bytes(range(256)) * 40)
    data = bytearray(path.read_bytes())
    data[60:70] = bytes(10)
    path.write_bytes(data)
    with pytest.raises(UserError, match="cannot be extracted"):
        zip_archive.extract_zip(path, tmp_path / "out")


def test_submission_holds_the_scorers_files_and_nothing_else(exported):
    with zipfile.ZipFile(exported[0]) as file:
        assert sorted(file.namelist()) == sorted(zip_archive.FILES)


def test_write_submission_refuses_more_than_64_dimensions(tmp_path):
    with pytest.raises(UserError, match="65 dimensions"):
        zip_archive.write_submission(build_model(65), tmp_path / "submission.zip")
    assert not list(tmp_path.iterdir())


def test_write_submission_leaves_nothing_behind_on_failure(tmp_path, model):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text("")
    with pytest.raises(UserError, match="already exists"):
        zip_archive.write_submission(model, tmp_path / "submission.zip", tmp_path / "used")
    assert [path.name for path in tmp_path.iterdir()] == ["used"]
