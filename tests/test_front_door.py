import ast
import subprocess
import sys
from pathlib import Path

import pytest

import universal_embedding

HEAVY = ("tensorflow", "keras", "numpy", "PIL", "matplotlib", "scann")


def test_importing_the_package_imports_nothing_heavy():
    code = f"import universal_embedding, sys; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_dir_lists_every_public_name():
    assert set(universal_embedding.__all__) <= set(dir(universal_embedding))
    assert "__version__" in dir(universal_embedding)


@pytest.mark.parametrize("name", universal_embedding.__all__)
def test_public_name_is_importable_and_documented(name):
    value = getattr(universal_embedding, name)
    assert value.__name__ == name and value.__doc__


def test_unknown_attribute_raises_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        universal_embedding.lod  # noqa: B018


def test_type_checkers_see_every_public_name():
    path = Path(universal_embedding.__file__)
    blocks = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.If)]
    names = {alias.name for block in blocks for node in block.body for alias in node.names}
    assert names == set(universal_embedding.__all__)
    assert path.with_name("py.typed").is_file()
