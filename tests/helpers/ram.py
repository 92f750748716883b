"""`ram://`, a file system inside TensorFlow: the tests' stand-in for a bucket, one per process."""

import contextlib

from etils import epath
from etils.epath import gpath, register


class _RamBackend(type(epath.backend.tf_backend)):
    """Unlike a bucket, TensorFlow's own `ram://` appends where it should replace a file."""

    def open(self, path, mode):
        if "w" in mode:
            with contextlib.suppress(FileNotFoundError):  # `exists` compares prefixes too
                self.remove(path)
        return super().open(path, mode)


class RamPath(gpath.PosixGPath):
    """A path that starts with `ram://`."""

    _backend = _RamBackend()

    def walk(self, *args, **kwargs):
        """Leaves out the rest of names that begin like a directory: `ram://` compares prefixes."""
        for folder, folders, files in super().walk(*args, **kwargs):
            yield folder, folders, [name for name in files if (folder / name).exists()]


def enable_ram_paths():
    """Lets `epath.Path("ram://...")` work as `gs://` does: through TensorFlow's own files."""
    if "ram" not in gpath._URI_SCHEMES:
        gpath._URI_SCHEMES |= {"ram"}
        gpath._URI_PREFIXES += ("ram://",)
        gpath._URI_MAP_ROOT["ram://"] = "/ram/"
        register.register_path_cls("ram://")(RamPath)
