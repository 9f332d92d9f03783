"""The picture of TensorBoard in the README, taken of a finished run by headless Chromium.

    python tests/benchmarks/picture.py checkpoints tests/benchmarks/tensorboard.png

Needs `chromium` (Debian: `apt-get install chromium`) and the folder of the runs. TensorBoard is started on a
local port and ended again.
"""

import argparse
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path


def main() -> None:
    """Start TensorBoard, take the picture, end it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("logdir", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--tab", default="timeseries", help="timeseries, scalars, text, hparams")
    parser.add_argument("--size", default="1500,1500", help="of the window, in pixels")
    args = parser.parse_args()
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("there is no chromium on the PATH")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    board = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tensorboard.main",
            "--logdir",
            args.logdir,
            "--port",
            str(port),
            "--load_fast=false",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(120):
            try:
                runs = urllib.request.urlopen(f"http://127.0.0.1:{port}/data/runs").read()
                if runs.strip() != b"[]":
                    break
            except OSError:
                pass
            time.sleep(0.5)
        with tempfile.TemporaryDirectory() as profile:
            subprocess.run(
                [
                    browser,
                    "--headless",
                    "--no-sandbox",
                    "--disable-gpu",
                    "--hide-scrollbars",
                    "--disable-background-networking",
                    "--disable-component-update",
                    "--disable-sync",
                    "--no-first-run",
                    f"--user-data-dir={profile}",
                    f"--window-size={args.size}",
                    "--virtual-time-budget=20000",
                    f"--screenshot={args.picture.resolve()}",
                    f"http://127.0.0.1:{port}/#{args.tab}",
                ],
                check=True,
                capture_output=True,
            )
    finally:
        board.terminate()
        board.wait()


if __name__ == "__main__":
    main()
