"""Runs the full pipeline on synthetic images: `python examples/demo.py [--output=demo]`.

Each step is a command that is printed. A second run repeats only what is out of date or quick.
"""

import argparse
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STEPS = """
Rendering eight domains: examples/render.py --output={out}/images
Preparing records: prepare --dataset=demo --manual_dir={out}/images --data_dir={out}/data
Training: train --config=demo --workdir={out}/run --data_dir={out}/data
Exporting: export --workdir={out}/run --saved_model={out}/saved_model --output={out}/submission.zip
Making a competition: make-solution --dataset=demo --data_dir={out}/data --output={out}/competition
Scoring the submission as Kaggle does: score --submission={out}/submission.zip --batch_size=32 \
 --query_dir={out}/competition/query --index_dir={out}/competition/index \
 --solution={out}/competition/solution.csv
Rendering a gallery: examples/render.py --kind=gallery --output={out}/gallery
Indexing the gallery: index --model={out}/saved_model --images={out}/gallery --output={out}/index
Evaluating the search: evaluate-index --index={out}/index
Searching: query --index={out}/index --image={out}/gallery/Vehicle/vehicle_0/00.jpg \
 --montage={out}/matches.png
Evaluating the model before and after training: evaluate --model={out}/run \
 --checkpoint=best,initial --dataset=demo --data_dir={out}/data --output={out}/report
"""
STAMP = ".demo"
RESULTS = """
The full pipeline took {seconds:.0f} s.
  report:      {out}/report/report.html (report.md, report.json)
  SavedModel:  {out}/saved_model
  submission:  {out}/submission.zip
  leaderboard: {out}/competition/leaderboard.jsonl
  search:      {out}/matches.png; as a web page: universal-embedding serve --index={out}/index"""


def main() -> None:
    """Runs all steps and prints where the results are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default="demo", help="Directory of everything it writes.")
    out, start = Path(parser.parse_args().output), time.monotonic()
    claim(out)
    for step in STEPS.strip().splitlines():
        title, command = step.split(": ")
        verb, *flags = (word.format(out=out) for word in command.split())
        if verb == "make-solution" and (out / "competition").exists():
            continue
        if verb == "export":
            remove_exports(out)
        print(f"\n== {title} ({time.monotonic() - start:.0f} s)", flush=True)
        is_script = verb.endswith(".py")
        print(
            "$",
            "python" if is_script else "universal-embedding",
            verb,
            shlex.join(flags),
            flush=True,
        )
        program = [str(ROOT / verb)] if is_script else ["-m", "universal_embedding", verb]
        code = subprocess.run([sys.executable, *program, *flags], check=False).returncode
        if code:
            sys.exit(code)
    print(RESULTS.format(out=out, seconds=time.monotonic() - start))


def claim(out: Path) -> None:
    """Marks a new or empty directory as the demo's own; exits if it is someone else's."""
    if out.exists() and not (out / STAMP).exists() and (not out.is_dir() or any(out.iterdir())):
        sys.exit(f"error: {out} (from --output) holds other files; give a new directory")
    out.mkdir(parents=True, exist_ok=True)
    (out / STAMP).touch()


def remove_exports(out: Path) -> None:
    """Removes the exports of an earlier run, their cards, and the index that one of them made."""
    for pattern in ("submission.zip*", "saved_model*", "index"):
        for path in out.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted")
