"""Pages of the site that are made from other files: config, command line, results, changelog."""

import ast
import importlib
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
REPOSITORY_FILES = {
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
_LINK = re.compile(r"\]\((?!https?://|#)([^)\s]+)\)")


def on_files(files, config):
    """Adds the generated pages."""
    pages = {"config.md": config_page(), "commands.md": commands_page()}
    for source, target in REPOSITORY_FILES.items():
        pages[target] = relink((ROOT / source).read_text(), "", target)
    for path in sorted((ROOT / "benchmarks/results").glob("*.md")):
        target = f"results/{path.name}"
        pages[target] = relink(path.read_text(), "benchmarks/results", target)
    for target, text in pages.items():
        files.append(File.generated(config, target, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links of handwritten pages may name files of the repository, as they do on its web page."""
    if page.file.generated_by:
        return markdown
    folder = Path("docs", page.file.src_uri).parent.as_posix()
    outside = re.compile(r"\]\((\.\./[^)\s]+)\)")
    return relink(markdown, folder, page.file.src_uri, outside)


def relink(text, folder, target, links=_LINK):
    """Links between files of the repository, as links between pages; others become plain text."""
    pages = {f"docs/{p.relative_to(ROOT / 'docs')}" for p in (ROOT / "docs").rglob("*")}
    moved = {**REPOSITORY_FILES, "README.md": "index.md"}

    def replace(match):
        path, hash_, anchor = match.group(1).partition("#")
        full = _normalize(f"{folder}/{path}" if folder else path)
        if full in moved:
            page = moved[full]
        elif full.startswith("benchmarks/results/") and full.endswith(".md"):
            page = full.removeprefix("benchmarks/")
        elif full in pages:
            page = full.removeprefix("docs/")
        else:
            return f"] (`{full}`)"
        depth = target.count("/")
        return f"]({'../' * depth}{page}{hash_}{anchor})"

    text = links.sub(replace, text)
    return re.sub(r"\[([^\]]+)\] \((`[^)]+`)\)", r"\1 (\2)", text)


def _normalize(path):
    parts = []
    for part in path.split("/"):
        if part == "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def config_page():
    """Every field of `base_config`, `stage` and `evaluation` with its default and comment."""
    path = ROOT / "universal_embedding/training/config.py"
    source, lines = path.read_text(), path.read_text().splitlines()
    from universal_embedding.training.config import base_config, evaluation, stage

    base = base_config()
    sections = [
        "# Config\n\nEvery field of `universal_embedding.training.config`, with its default. Set "
        "one with `--config.FIELD=VALUE`, or in a recipe. Fields cannot be added; a misspelled one "
        "is an error that names the closest."
    ]
    groups = {
        "base_config": ("The run", base),
        "_losses": ("Losses", base),
        "stage": ("A stage, `config.stages[i]`", stage()),
        "evaluation": ("An evaluation, `config.evals.NAME`", evaluation()),
    }
    for function in ast.parse(source).body:
        if isinstance(function, ast.FunctionDef) and function.name in groups:
            title, values = groups[function.name]
            rows = _field_rows(function, lines, values)
            table = "\n".join(f"| `{n}` | `{v}` | {c} |" for n, v, c in rows)
            sections.append(f"## {title}\n\n| field | default | |\n|---|---|---|\n{table}")
    rows = [
        (f"config.augmentation.{name}", repr(value), "")
        for name, value in base.augmentation.items()
    ]
    table = "\n".join(f"| `{n}` | `{v}` | {c} |" for n, v, c in rows)
    sections.append(
        "## Augmentation\n\nThe fields of [`AugmentationConfig`](api/index.md).\n\n"
        f"| field | default | |\n|---|---|---|\n{table}"
    )
    return "\n\n".join(sections) + "\n"


def _field_rows(function, lines, config):
    """(name, default, comment) of each field that a function of the config module assigns."""
    from ml_collections import ConfigDict

    rows = []
    for node in function.body:
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Attribute):
            continue
        name = ast.unparse(node.targets[0])
        value = config
        for part in (name.replace("losses.", "config.losses.", 1)).split(".")[1:]:
            value = value.get(part) if isinstance(value, ConfigDict) else None
        comment = _comment(lines, node)
        if isinstance(value, ConfigDict):
            leaves = {k: v for k, v in value.items() if not isinstance(v, ConfigDict)}
            if function.name == "_losses":  # the weight is given where the loss is made
                rows.append((f"config.{name}.weight", repr(leaves.get("weight")), comment))
            elif name.endswith("weight_decay"):
                rows.append((name, repr(dict(leaves)), comment))
            continue
        name = f"config.{name}" if function.name == "_losses" else name
        rows.append((name, repr(value), comment))
    return rows


def _comment(lines, node):
    """The comment after a statement, or the comment lines right above it."""
    code = lines[node.end_lineno - 1]
    after = code[node.end_col_offset :].partition("#")[2].strip()
    if after:
        return after.replace("|", r"\|")
    above, number = [], node.lineno - 2
    while number >= 0 and lines[number].strip().startswith("#"):
        above.insert(0, lines[number].strip().lstrip("# "))
        number -= 1
    return " ".join(above).replace("|", r"\|")


def commands_page():
    """The help of every verb."""
    import argparse

    from universal_embedding import cli

    sections = [
        "# Command line\n\n`universal-embedding VERB --flag=value ...`; exit code 0 on success, 1 "
        "with one line on standard error for what a user can cause, 130 after Ctrl-C."
    ]
    for verb in cli.VERBS:
        module = importlib.import_module(f"universal_embedding.commands.{verb.replace('-', '_')}")
        parser = argparse.ArgumentParser(prog=f"universal-embedding {verb}", add_help=False)
        module.add_arguments(parser)
        rows = []
        for action in parser._actions:
            flag = ", ".join(f"`{option}`" for option in action.option_strings) or action.dest
            default = "" if action.default in (None, [], "", argparse.SUPPRESS) else action.default
            if isinstance(default, list):
                default = ",".join(map(str, default))
            text = (action.help or "").replace("%%", "%").replace("|", r"\|")
            rows.append(f"| {flag} | {default} | {text} |")
        doc = (module.__doc__ or "").strip()
        sections.append(
            f"## {verb}\n\n```text\n{doc}\n```\n\n| flag | default | |\n|---|---|---|\n"
            + "\n".join(rows)
        )
    return "\n\n".join(sections) + "\n"
