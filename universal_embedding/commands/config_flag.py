"""The flag --config=NAME|FILE.py[:ARGUMENT] and its overrides --config.FIELD=VALUE."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from universal_embedding.errors import UserError

CONFIG_PREFIXES = ("--config.", "--noconfig.")


def read_config_flag(spec: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """Loads a recipe and applies overrides.

    Args:
        spec: Name of a module of `universal_embedding.configs`, or a Python file, with the
            argument of its `get_config` after a colon.
        overrides: `--config.FIELD=VALUE` flags.

    Raises:
        UserError: the recipe cannot be loaded, or an override names no field or has a wrong type.
    """
    name, colon, argument = spec.partition(":")
    path = f"--config={find_recipe(name)}{colon}{argument}"
    values = flags.FlagValues()
    argv = ["train", path, *overrides]
    holder = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    try:
        values(argv)
        return holder.value.lock()
    except UserError:
        raise
    except (flags.Error, TypeError, ValueError) as error:
        # ml_collections adds a traceback to what a recipe raises; its last line is the reason.
        before, _, trace = str(error).partition("Traceback (most recent call last):")
        reason = " ".join([before, *trace.strip().splitlines()[-1:]])
    except (AttributeError, KeyError, IndexError) as error:
        text = str(error.args[0]).replace("\\n", " ").replace("\\'", "'")
        reason = f"a --config override names no field of the config: {text}"
    except Exception as error:  # only a recipe's own code runs here
        reason = f"--config={spec} cannot be loaded: {type(error).__name__}: {error}"
    raise UserError(" ".join(reason.split()))


def find_recipe(name: str) -> Path:
    """The file of a recipe.

    Raises:
        UserError: there is no such file or packaged recipe.
    """
    path = Path(name)
    if path.suffix == ".py" or path.is_file():
        if not path.is_file():
            raise UserError(
                f"--config={name} is not a file; give a file, or one of {', '.join(recipe_names())}"
            )
        return path
    if name not in recipe_names():
        raise UserError(
            f"--config={name} names no packaged recipe; there are {', '.join(recipe_names())}"
        )
    return _packaged_dir() / f"{name}.py"


def recipe_names() -> list[str]:
    """Names of the packaged recipes."""
    return sorted(path.stem for path in _packaged_dir().glob("[a-z]*.py"))


def _packaged_dir() -> Path:
    spec = importlib.util.find_spec("universal_embedding.configs")
    locations = spec.submodule_search_locations if spec else None
    if not locations:  # a checkout that is not installed
        return Path(__file__).resolve().parents[2] / "configs"
    return Path(locations[0])
