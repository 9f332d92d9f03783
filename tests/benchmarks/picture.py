"""The picture of TensorBoard in the README, taken of finished runs by a real browser.

    python tests/benchmarks/picture.py checkpoints tests/benchmarks/tensorboard.png

Needs Chromium and its driver (Debian: `apt-get install chromium chromium-driver`). TensorBoard and the driver
are started on local ports and ended again; the driver is spoken to in its own language, HTTP and JSON.
"""

import argparse
import base64
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

# Chromium as root without a screen; the network is closed to all but this machine.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
CLOSE_SETTINGS = """
const button = [...document.querySelectorAll("button")].find(b => b.textContent.trim().endsWith("Settings"));
if (button) button.click();
"""


def free_port() -> int:
    """A port of this machine that nobody uses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def ask(url: str, content: Any = None) -> Any:
    """The JSON that a local server answers; null while it does not."""
    data = None if content is None else json.dumps(content).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data)) as answer:
            return json.loads(answer.read())
    except OSError:
        return None


def wait_for(url: str) -> None:
    """Until a local server answers with something that is not empty; two minutes at most."""
    for _ in range(240):
        if ask(url):
            return
        time.sleep(0.5)
    sys.exit(f"{url} does not answer")


def take(driver: str, page: str, size: str) -> bytes:
    """A PNG of a page, after it had time to draw."""
    options = {"args": [*FLAGS, f"--window-size={size}"]}
    wanted = {"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}}
    session = f"{driver}/session/{ask(f'{driver}/session', wanted)['value']['sessionId']}"
    ask(f"{session}/url", {"url": page})
    time.sleep(12)
    ask(f"{session}/execute/sync", {"script": CLOSE_SETTINGS, "args": []})
    time.sleep(8)
    picture = base64.b64decode(ask(f"{session}/screenshot")["value"])
    urllib.request.urlopen(urllib.request.Request(session, method="DELETE")).close()
    return picture


def main() -> None:
    """Start both, take the picture, end both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("logdir", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--tab", default="timeseries", help="timeseries, scalars, text, hparams")
    parser.add_argument("--size", default="1500,1500", help="of the window, in pixels")
    args = parser.parse_args()
    if shutil.which("chromedriver") is None:
        sys.exit("there is no chromedriver on the PATH")
    board, driver = free_port(), free_port()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", args.logdir, "--load_fast=false"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    processes = [
        subprocess.Popen([*command, "--port", str(board)], **quiet),
        subprocess.Popen(["chromedriver", f"--port={driver}"], **quiet),
    ]
    try:
        wait_for(f"http://127.0.0.1:{board}/data/runs")
        wait_for(f"http://127.0.0.1:{driver}/status")
        page = f"http://127.0.0.1:{board}/#{args.tab}"
        args.picture.write_bytes(take(f"http://127.0.0.1:{driver}", page, args.size))
    finally:
        for process in processes:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
