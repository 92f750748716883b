"""Lists the images below a folder, and names what cannot be used, whatever the folder holds."""

import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from universal_embedding.errors import UserError, printable
from universal_embedding.files import as_path, is_remote

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


@dataclass
class ImageListing:
    """The content of a folder.

    Attributes:
        names: Images by suffix, sorted; relative to the folder, separated by `/`.
        unusable: Reasons by printable name: names that cannot be stored, folders that cannot be
            listed (their names end with `/`), dangling links.
        num_other_files: Files passed over: other suffixes, hidden files and folders, links that
            lead out of the folder, linked folders.
    """

    names: list[str] = field(default_factory=list)
    unusable: dict[str, str] = field(default_factory=dict)
    num_other_files: int = 0


def list_image_files(folder: Path) -> ImageListing:
    """Lists the images under `folder` by suffix.

    Raises:
        UserError: `folder` is not a directory, or it cannot be listed.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a directory; name the directory of the images")
    root, listing = os.path.realpath(folder), ImageListing()
    for name, reason in walk_files(Path(root)):
        path = os.path.join(root, name)
        is_image = name.lower().endswith(IMAGE_SUFFIXES) and not is_hidden(name)
        target = os.path.realpath(path)
        is_inside = os.path.commonpath([root, target]) == root
        reason = reason or (name_problem(name) if is_image else "")
        if is_image and not reason and not is_inside and not os.path.exists(target):
            reason = "the file is missing"
        if reason:
            listing.unusable[printable(name)] = reason
        elif is_image and is_inside and not os.path.isdir(path):
            listing.names.append(name)
        else:
            listing.num_other_files += 1
    listing.names.sort()
    return listing


def walk_files(root: str | os.PathLike) -> Iterator[tuple[str, str]]:
    """Every file and link below `root`, and every folder that is not entered.

    Yields:
        The path relative to `root`, separated by `/`, and the reason why a folder cannot be listed,
        or "". Hidden and linked folders are not entered.

    Raises:
        UserError: `root` itself cannot be listed.
    """
    if is_remote(root):  # no links there, and names are checked when an image is read
        for folder, _, files in as_path(root).walk():
            for name in sorted(files):
                yield (folder / name).relative_to(root).as_posix(), ""
        return
    errors: list[OSError] = []
    for directory, folders, files in os.walk(os.fspath(root), onerror=errors.append):
        prefix = os.path.relpath(directory, root)
        prefix = "" if prefix == "." else f"{prefix}/"
        skipped = [f for f in folders if f.startswith(".") or Path(directory, f).is_symlink()]
        folders[:] = sorted(set(folders) - set(skipped))
        for name in sorted(files + skipped):
            yield prefix + name, ""
    for error in errors:
        reason = f"cannot list the folder: {error.strerror}"
        name = os.path.relpath(error.filename, root)
        if name == ".":
            raise UserError(f"{root}: {reason}; name a folder that can be read") from None
        yield f"{name}/", reason


def name_problem(name: str) -> str:
    """The reason why `name` cannot be stored as an image's name, or ""."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return "the name is not UTF-8; rename the file"
    if any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in name):
        return "the name holds a control character; rename the file"
    return ""


def local_size(path: str | os.PathLike) -> int:
    """Bytes of a file, -1 if there is none."""
    try:
        return os.path.getsize(path)
    except OSError:
        return -1


def is_hidden(name: str) -> bool:
    """Whether any part of a path is hidden."""
    return any(part.startswith(".") for part in name.split("/"))
