"""Records of benchmarks: how they are measured, kept, and made into tables."""

import json
import re
import sys
from pathlib import Path

import common
import leaderboard
import pytest
import record
import tables
from absl import flags

from universal_embedding.errors import UserError

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def parsed_flags():
    flags.FLAGS(["record.py"])
    yield
    flags.FLAGS.unparse_flags()


@pytest.mark.parametrize("path", tables.markdown_files(), ids=lambda path: path.name)
def test_figures_are_those_of_the_records(path):
    text = path.read_text()
    assert tables.fill(text, tables.read_records(), path) == text, "run `make tables`"


def test_every_record_has_its_figures_in_a_file():
    text = "".join(path.read_text() for path in tables.markdown_files())
    shown = set(re.findall(r"<!-- figures: ([\w-]+) -->", text))
    assert set(tables.read_records()) <= shown
    assert {"readme", "readme-leaderboard", "leaderboard"} <= shown


def test_changed_record_changes_its_table():
    records = tables.read_records()
    row = records["export"]["batch_1"]
    row["ratio"] = 0.4321
    text = tables.fill("a\n<!-- figures: export -->\nold\n<!-- end -->\nb\n", records, "x")
    assert text.startswith("a\n<!-- figures: export -->\n| batch |")
    assert "0.432" in text and "old" not in text
    assert text.endswith("<!-- end -->\nb\n")


def test_wrong_regions_are_refused():
    with pytest.raises(UserError, match="speling"):
        tables.fill("<!-- figures: speling -->\n<!-- end -->\n", {}, "x.md")
    with pytest.raises(UserError, match=r"x\.md .* without"):
        tables.fill("<!-- figures: heads -->\n", {}, "x.md")


def test_missing_record_is_named():
    text = tables.fill("<!-- figures: heads -->\n<!-- end -->\n", {}, "x.md")
    assert "make benchmarks ONLY=heads" in text


def make_record(**models):
    """A record with a merged mMP@5 by model, one number for each seed."""
    scores = {
        name: {p: {"mean": {"r_at_1": v, "mmp_at_5": v}} for p in ("merged", "separate")}
        for name, v in models.items()
    }
    return {"results": scores, "command": "x", "machine": "m", "date": "d"}


def test_leaderboard_ranks_all_models_but_outdated_ones():
    records = {
        "a": make_record(low=[0.2, 0.4], old=[0.9]) | {"outdated": ["old"]},
        "b": make_record(high=0.5) | {"minutes": {"high": 12.34}, "commit": "abc"},
        "speed": {"seconds": 1},
    }
    _, _, first, second = leaderboard.leaderboard(records).splitlines()
    assert first.startswith("| 1 | high | b | 0.5000 | 0.5000 | 0.5000 | 1 | 12.3 | m | d | abc |")
    assert second.startswith("| 2 | low | a | 0.3000 ± 0.1414 |")
    assert "not recorded" in second


def test_printed_record_says_all_that_it_depends_on(monkeypatch, capsys):
    class Load:
        def stop(self):
            pass

        def summary(self):
            return {"load": {"before": 0.0}, "busy": False}

    monkeypatch.setattr(common, "_load", Load())
    monkeypatch.setattr(sys, "argv", ["/x/heads.py", "--a=/home/me/b.keras,/c/d", "--n=3"])
    common.print_json({"seconds": 1.5})
    printed = json.loads(capsys.readouterr().out)
    assert printed["seconds"] == 1.5
    assert printed["command"] == "python benchmarks/heads.py --a=PATH/TO/b.keras,PATH/TO/d --n=3"
    assert printed["load"] == {"before": 0.0} and printed["busy"] is False
    assert set(printed) >= {"machine", "date", "commit", "versions"}
    assert re.search(r"cores, \d+ GB$", printed["machine"])


def test_commands_need_their_flags():
    with pytest.raises(UserError, match="heads needs --torch_python"):
        record.make_command("heads")
    with pytest.raises(UserError, match="--only=speed is not a benchmark"):
        record.make_command("speed")
    flags.FLAGS(["record.py", "--backbone=b.keras", "--allow_busy"])
    program, *arguments = record.make_command("train_step")
    assert program == str(BENCHMARKS / "train_step.py")
    assert arguments == ["--backbones=vit_s16,b.keras,pooling", "--allow_busy"]


def test_last_line_of_a_program_is_its_record(tmp_path, capsys):
    program = tmp_path / "program.py"
    program.write_text("print('a line')\nprint('{\"seconds\": 2}')\n")
    assert record.run("x", [str(program)]) == {"seconds": 2}
    assert capsys.readouterr().out.startswith("a line\n")
    program.write_text("raise SystemExit(3)")
    with pytest.raises(UserError, match="the benchmark x ended with exit code 3"):
        record.run("x", [str(program)])


def test_every_program_looks_at_the_load():
    programs = {command.split()[0] for command in record.SPEED.values()}
    for name in programs:
        assert "common.run(main, needs_idle=True)" in (BENCHMARKS / name).read_text(), name
    for name in {command.split()[0] for command in record.QUALITY.values()}:
        assert "common.run(main)" in (BENCHMARKS / name).read_text(), name
