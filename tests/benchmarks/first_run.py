"""The picture of a first run in the README: the commands are run, and what they print is drawn as a terminal.

python tests/benchmarks/first_run.py docs/first-run.svg
"""

import argparse
import io
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

COMMANDS = ["lm fit gpt-nano", 'lm generate checkpoints/gpt-nano "def parse" --tokens 60']
KEPT = ("corpus", "run ", "step ", "validation", "1,433,600", "run folder")


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("svg", type=Path)
    svg = parser.parse_args().svg
    console = Console(record=True, width=100, file=io.StringIO())
    with tempfile.TemporaryDirectory() as folder:
        for command in COMMANDS:
            console.print(Text(f"$ {command}", style="bold green"))
            words = [sys.executable, "-m", "lm", *shlex.split(command)[1:]]
            done = subprocess.run(words, cwd=folder, check=True, capture_output=True, text=True)
            lines = done.stdout.splitlines()
            if "fit" in words:
                steps = done.stderr.splitlines()
                some = [line for line in steps if line.startswith("step") and "validation" not in line]
                left = {*some} - {*some[:2], *some[-1:]}
                lines = [line for line in steps if line not in left] + lines
                lines = [line for line in lines if line.startswith(KEPT)]
            for line in lines[:20]:
                console.print(Text(line[:110]))
            console.print()
    drawn = console.export_svg(title="lm")
    svg.write_text(
        re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL), encoding="utf-8"
    )  # none is fetched


if __name__ == "__main__":
    main()
