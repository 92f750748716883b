"""The whole path on pictures that the project renders: `make demo`.

render -> prepare -> train -> export -> score -> search -> report, each by its own tool, whose
command is shown. A second run does only what the first has not done.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from absl import flags

from universal_embedding import command
from universal_embedding.errors import UserError

OUTPUT = flags.DEFINE_string("output", "demo", "Folder for everything that the demo makes.")
TOOLS = Path(__file__).resolve().parent


def main(argv: list[str]) -> None:
    del argv
    out = Path(OUTPUT.value)
    began = time.monotonic()
    for title, tool, *arguments in steps(out):
        print(f"\n== {title} ({time.monotonic() - began:.0f} s)", flush=True)
        run(tool, arguments)
    print(
        f"\nThe whole path took {time.monotonic() - began:.0f} s.\n"
        f"  report:      {out}/report/report.html (report.md, report.json)\n"
        f"  SavedModel:  {out}/saved_model\n"
        f"  submission:  {out}/submission.zip\n"
        f"  leaderboard: {out}/competition/leaderboard.jsonl\n"
        f"  search:      {out}/matches.png; as a web page:\n"
        f"               {sys.executable} tools/search.py serve --index={out}/index"
    )


def steps(out: Path) -> Iterator[tuple[str, ...]]:
    """Title, tool and arguments of each step, which may look at what those before it made."""
    data = ["--dataset=demo", f"--data_dir={out}/data"]
    run_folder, pictures, competition = out / "run", out / "pictures", out / "competition"
    gallery = out / "gallery"
    config = f"--config={TOOLS.parent}/configs/demo.py"
    submission, saved_model, index = out / "submission.zip", out / "saved_model", out / "index"
    yield "Rendering eight domains", "render.py", f"--output={pictures}"
    yield "Preparing records", "prepare.py", f"--manual_dir={pictures}", *data
    yield "Training", "train.py", config, f"--workdir={run_folder}", f"--data_dir={out}/data"
    for made in (submission, saved_model, index):  # of an earlier run; the tools keep what is there
        remove(made)
    yield (
        "Exporting",
        "export.py",
        f"--workdir={run_folder}",
        f"--saved_model={saved_model}",
        f"--output={submission}",
    )
    if not competition.exists():
        yield "Making a competition", "make_solution.py", f"--output={competition}", *data
    yield (
        "Scoring the submission as Kaggle does",
        "score.py",
        f"--submission={submission}",
        f"--query_dir={competition}/query",
        f"--index_dir={competition}/index",
        f"--solution={competition}/solution.csv",
        "--batch_size=32",
    )
    yield "Rendering a gallery", "render.py", "--what=gallery", f"--output={gallery}"
    yield (
        "Indexing the gallery",
        "search.py",
        "index",
        f"--saved_model={saved_model}",
        f"--gallery={gallery}",
        f"--output={index}",
    )
    yield "Measuring the search", "search.py", "evaluate", f"--index={index}"
    picture = min((gallery / "Vehicle").rglob("*.jpg"))
    sheet = f"--sheet={out}/matches.png"
    yield "Searching", "search.py", "query", f"--index={index}", f"--image={picture}", sheet
    yield (
        "Report: the trained model, and the same before training",
        "evaluate.py",
        f"--workdir={run_folder}",
        "--checkpoint=best,initial",
        *data,
        f"--output={out}/report",
    )


def remove(path: Path) -> None:
    """Removes a file or folder that the demo made."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def run(tool: str, arguments: list[str]) -> None:
    """Runs a tool; its failure is the demo's."""
    print(f"$ python tools/{tool} {' '.join(arguments)}", flush=True)
    done = subprocess.run([sys.executable, str(TOOLS / tool), *arguments], check=False)
    if done.returncode == 130:
        raise KeyboardInterrupt
    if done.returncode:
        raise UserError(f"tools/{tool} ended with exit code {done.returncode}; see above")


if __name__ == "__main__":
    command.run(main)
