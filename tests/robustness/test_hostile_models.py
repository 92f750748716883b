"""Loading or calling somebody's model touches no file, and a foreign one is not even loaded."""

import contextlib
import json
import zipfile

import pytest
import tensorflow as tf

from tests.helpers.image_folder import MeanColorModel, write_color_folder
from universal_embedding.app.image_index import ImageIndex
from universal_embedding.errors import UserError
from universal_embedding.export.embedder import Embedder
from universal_embedding.export.zip_archive import FILES, extract_zip, fingerprint, make_zip


class HostileModule(tf.Module):
    """A valid embedder that also does something when it is called."""

    def __init__(self, action):
        super().__init__()
        self.action = action

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")])
    def __call__(self, images):
        with tf.control_dependencies([self.action()]):
            rows = tf.cast(tf.reduce_mean(images, axis=(1, 2)), tf.float32)
        return {"embedding_norm": tf.math.l2_normalize(rows, axis=1)}


def save(module, folder):
    tf.saved_model.save(module, str(folder), signatures=module.__call__)
    return folder


@pytest.fixture
def target(tmp_path):
    return tmp_path / "owned"


ACTIONS = {
    "WriteFile": lambda target: tf.io.write_file(str(target), "owned"),
    "ReadFile": lambda target: tf.io.read_file("/etc/hostname"),
    "MatchingFiles": lambda target: tf.io.matching_files("/etc/*"),
    "EagerPyFunc": lambda target: tf.py_function(lambda: 1, [], tf.int32),
    "SaveV2": lambda target: tf.raw_ops.SaveV2(
        prefix=str(target), tensor_names=["x"], shape_and_slices=[""], tensors=[tf.zeros([])]
    ),
    "RestoreV2": lambda target: tf.raw_ops.RestoreV2(
        prefix="/x", tensor_names=["x"], shape_and_slices=[""], dtypes=[tf.float32]
    )[0],
    "PrintV2": lambda target: tf.raw_ops.PrintV2(input="x"),
    "ImmutableConst": lambda target: tf.raw_ops.ImmutableConst(
        dtype=tf.uint8, shape=[4], memory_region_name="/etc/hostname"
    ),
}


@pytest.mark.parametrize("op", ACTIONS)
def test_ops_that_touch_files_or_run_python_are_refused(op, target, tmp_path):
    folder = save(HostileModule(lambda: ACTIONS[op](target)), tmp_path / "model")
    make_zip(folder, tmp_path / "model.zip")
    for path in (folder, tmp_path / "model.zip"):
        with pytest.raises(UserError, match=rf"has the op '{op}'.*refused"):
            Embedder.from_pretrained(path)
    assert not list(tmp_path.glob("owned*"))


def test_tables_and_datasets_are_refused(tmp_path):
    class Table(HostileModule):
        def __init__(self):
            super().__init__(tf.no_op)
            file = tmp_path / "words.txt"
            file.write_text("a\t1\n")
            initializer = tf.lookup.TextFileInitializer(str(file), tf.string, 0, tf.int64, 1)
            self.table = tf.lookup.StaticHashTable(initializer, -1)
            self.action = lambda: self.table.lookup(tf.constant("a"))

    with pytest.raises(UserError, match="refused"):
        Embedder.from_pretrained(save(Table(), tmp_path / "model"))


def test_harmless_model_of_another_program_is_loaded(tmp_path):
    model = Embedder.from_pretrained(save(HostileModule(tf.no_op), tmp_path / "model"))
    assert model.embedding_dim == 3


def test_index_does_not_load_a_model_that_did_not_make_it(tmp_path, monkeypatch):
    folder = write_color_folder(tmp_path / "images")
    ImageIndex.build(MeanColorModel(), folder).save(tmp_path / "i")
    evil = save(HostileModule(tf.no_op), tmp_path / "evil")
    meta = json.loads((tmp_path / "i/index.json").read_text())
    (tmp_path / "i/index.json").write_text(json.dumps(meta | {"model": str(evil)}))
    monkeypatch.setattr(tf.saved_model, "load", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(UserError, match="did not make this index"):
        ImageIndex.load(tmp_path / "i").encode(folder / "red/0.png")


def write_zip(path, members, mutate=lambda info: None):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            mutate(info)
            archive.writestr(info, data)
    return path


@pytest.mark.parametrize(
    "extra", ["../x", "/x", "a/../../x", "..\\x", "C:\\x", "./", ".", "x" * 300, *"ab"]
)
def test_nothing_but_the_model_is_extracted(extra, tmp_path):
    path = write_zip(tmp_path / "s.zip", dict.fromkeys(FILES, b"x") | {extra: b"evil"})
    (tmp_path / "out").mkdir()
    with contextlib.suppress(UserError):
        extract_zip(path, tmp_path / "out")
    files = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert files <= {"s.zip", *(f"out/{name}" for name in FILES)}


def test_bombs_are_refused(tmp_path):
    many = dict.fromkeys([*FILES, *(f"{i}" for i in range(2000))], b"")
    with pytest.raises(UserError, match="2,003 files"):
        extract_zip(write_zip(tmp_path / "many.zip", many), tmp_path / "out")


def test_damaged_zips_are_one_line(tmp_path):
    good = write_zip(tmp_path / "s.zip", {name: name.encode() * 50 for name in FILES}).read_bytes()
    expected = fingerprint(tmp_path / "s.zip")
    for i in range(0, len(good), 7):
        for data in (good[:i], good[:i] + bytes([good[i] ^ 255]) + good[i + 1 :]):
            (tmp_path / "s.zip").write_bytes(data)
            try:
                assert fingerprint(tmp_path / "s.zip") == expected  # of a field that nobody reads
            except UserError as error:
                assert "\n" not in str(error)
