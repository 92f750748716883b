"""Types and flags that several verbs share."""

import argparse
from collections.abc import Callable
from pathlib import Path


def comma_list(text: str) -> list[str]:
    """`a,b,c` -> `["a", "b", "c"]`."""
    return [item.strip() for item in text.split(",") if item.strip()]


def int_at_least(minimum: int) -> Callable[[str], int]:
    """The type of an integer flag with a lower bound."""

    def integer(text: str) -> int:
        value = int(text)
        if value < minimum:
            raise argparse.ArgumentTypeError(f"{text} is below {minimum}")
        return value

    return integer


def float_between(low: float, high: float = float("inf")) -> Callable[[str], float]:
    """The type of a number flag with bounds, both allowed."""

    def number(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not in {low:g}..{high:g}")
        return value

    return number


def add_local_path(
    parser: argparse.ArgumentParser,
    flag: str,
    text: str,
    required: bool = False,
    repeated: bool = False,
) -> None:
    """Adds the flag of a path where gs:// cannot work, and is refused; or of a list of them."""

    def local(path: str) -> Path:
        from universal_embedding.files import local_path

        return local_path(path, flag)

    repeat: dict = {"action": "append", "default": []} if repeated else {}
    parser.add_argument(flag, type=local, required=required, help=text, **repeat)


def add_switch(
    parser: argparse.ArgumentParser, name: str, text: str, default: bool = False
) -> None:
    """Adds `--name`, with `--no-name` as its opposite."""
    parser.add_argument(
        f"--{name}", action=argparse.BooleanOptionalAction, default=default, help=text
    )


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --data_dir, --dataset and --domains."""
    add_data_dir(parser)
    parser.add_argument("--dataset", help="Name of a prepared dataset, such as uned.")
    parser.add_argument(
        "--domains", type=comma_list, default=[], help="Only these domains, comma-separated."
    )


def add_data_dir(parser: argparse.ArgumentParser) -> None:
    """Adds --data_dir."""
    parser.add_argument(
        "--data_dir",
        help="Directory of prepared datasets; TFDS_DATA_DIR or ~/tensorflow_datasets by default.",
    )


def add_strategy_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --strategy, --tpu and --allow_unproven_slice."""
    parser.add_argument(
        "--strategy",
        default="one_device",
        choices=["one_device", "mirrored", "multi_worker"],
        help="Distribution strategy.",
    )
    parser.add_argument("--tpu", default="", help="`local`, or a TPU's name or address.")
    add_switch(
        parser, "allow_unproven_slice", "Accept a TPU of several hosts, which was never tried."
    )


def add_index_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that open an index: --index, --model and --exact_search_below."""
    add_local_path(parser, "--index", "Index directory written by `index`.", required=True)
    parser.add_argument(
        "--model", help="The index's model, if it is no longer where it was when indexing."
    )
    parser.add_argument(
        "--exact_search_below",
        type=int_at_least(0),
        default=500_000,
        help="Use exact search below this many images.",
    )
