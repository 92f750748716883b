"""A `gs://` path where only a local one works is refused in one line, before anything is loaded."""

import pytest

from universal_embedding.cli import parse
from universal_embedding.errors import UserError

COMMANDS = {
    "index --model=m --images=gs://b/x --output=i": "--images",
    "index --model=m --images=i --output=gs://b/x": "--output",
    "query --index=gs://b/x --image=i.jpg": "--index",
    "query --index=i --image=gs://b/x": "--image",
    "serve --index=gs://b/x": "--index",
    "evaluate-index --index=gs://b/x": "--index",
    "make-solution --folder=f --output=gs://b/x": "--output",
    "make-solution --folder=gs://b/x --output=o": "--folder",
    "score --solution=gs://b/x --predictions=p.csv": "--solution",
    "score --solution=s.csv --predictions=gs://b/x": "--predictions",
    "score --solution=s.csv --leaderboard=gs://b/x": "--leaderboard",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_remote_path_is_refused(command):
    with pytest.raises(UserError, match=f"{COMMANDS[command]}=gs://b/x must be on a local disk"):
        parse(command.split())
