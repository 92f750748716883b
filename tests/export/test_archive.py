import stat
import zipfile

import pytest

from universal_embedding.errors import UserError
from universal_embedding.export import archive


def make_zip(path, names=archive.FILES, content=b"0123456789", mode=None):
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            if mode:
                info.external_attr = mode << 16
            file.writestr(info, content)
    return path


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "..\\x", "C:\\x", "\\x"])
def test_unsafe_paths_are_refused(tmp_path, name):
    path = make_zip(tmp_path / "s.zip", [*archive.FILES, name])
    with pytest.raises(UserError, match="unsafe path"):
        archive.unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_links_are_refused(tmp_path):
    path = make_zip(tmp_path / "s.zip", mode=stat.S_IFLNK | 0o777)
    with pytest.raises(UserError, match="link"):
        archive.unpack(path, tmp_path / "out")


def test_too_much_is_refused(tmp_path):
    path = make_zip(tmp_path / "s.zip", content=bytes(10**6))
    assert path.stat().st_size < 10**5
    with pytest.raises(UserError, match="3,000,000 bytes, more than 1,000,000"):
        archive.unpack(path, tmp_path / "out", max_bytes=10**6)


def test_a_saved_model_in_a_folder_is_refused(tmp_path):
    path = make_zip(tmp_path / "s.zip", [f"model/{name}" for name in archive.FILES])
    with pytest.raises(UserError, match=r"no saved_model\.pb at its root"):
        archive.unpack(path, tmp_path / "out")


def test_no_zip_and_a_damaged_one(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        archive.unpack(tmp_path / "none.zip", tmp_path / "out")
    (tmp_path / "text.zip").write_text("not a zip")
    with pytest.raises(UserError, match="cannot be unpacked"):
        archive.unpack(tmp_path / "text.zip", tmp_path / "out")
    path = make_zip(tmp_path / "s.zip", content=bytes(range(256)) * 40)
    data = bytearray(path.read_bytes())
    data[60:70] = bytes(10)
    path.write_bytes(data)
    with pytest.raises(UserError, match="cannot be unpacked"):
        archive.unpack(path, tmp_path / "out")
