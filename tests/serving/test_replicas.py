"""`lm serve --replicas`: the same server several times, by Ray Serve."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import grpc
import httpx
import openai
import pytest

import lm as language

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="no Ray Serve: pip install -e '.[serve,ray]'"
)
KEY = "a-key-of-20-characters"


@pytest.fixture(scope="module")
def two(trained, tmp_path_factory):
    """Two replicas of the GPT that need a key, and a client that has it. What is started ends with them."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(KEY)
    words = [trained / "checkpoints/gpt", "--port=0", f"--keys={keys}", "--log-requests", "--replicas=2"]
    words = [sys.executable, "-m", "lm", "serve", *words, "--slots=1", "--queue=3", "--grace=20"]
    process = subprocess.Popen(words, cwd=keys.parent, stderr=subprocess.PIPE, text=True)
    said, started = [], set()
    try:
        for line in process.stderr:
            said.append(line.rstrip())
            if line.startswith("stop it"):
                break
        assert said and said[-1].startswith("stop it"), said
        assert not any("Traceback" in line for line in said)
        reader = threading.Thread(target=lambda: said.extend(line.rstrip() for line in process.stderr))
        reader.start()
        url = next(line.split()[2].rstrip(",;") for line in said if line.startswith("serving at"))
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {KEY}"}, timeout=60) as http:
            yield SimpleNamespace(process=process, said=said, url=url, http=http, reader=reader)
    finally:
        started = descendants(process.pid)
        process.terminate()
        process.wait()
        for pid in started:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def stat(pid):
    """Of a process: its state, and whose child it is; nothing of one that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[:2]
    except OSError:
        return []


def descendants(pid):
    """Processes that a process started, and those that these did."""
    parents = {int(each.name): stat(each.name) for each in Path("/proc").glob("[0-9]*")}
    found = [pid]
    for parent in found:
        found += [each for each, state in parents.items() if state[1:] == [str(parent)]]
    return found[1:]


def replicas(http, path="/v1/completions"):
    """The names of those that have answered, with the number of their answers at a path."""
    found = re.findall(
        rf'lm_requests_total\{{path="{path}",replica="(\w+)",status="200"\}} (\d+)',
        http.get("/metrics").text,
    )
    return {name: int(count) for name, count in found}


def body(tokens, **more):
    """A request for so many tokens, none of which ends the text."""
    fields = {"model": "gpt", "prompt": "d", "max_tokens": tokens, "temperature": 0}
    return {**fields, "logit_bias": {"100": 50}, **more}


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--replicas=0"], 2, "--replicas 0: it must be at least 1"),
        (["--replicas=two"], 2, "--replicas"),
        (["--replicas=2"], 1, "lm serve --replicas needs Ray Serve: pip install -e '.[serve,ray]'"),
    ],
)
def test_wrong_usage(lm, monkeypatch, words, status, said):
    monkeypatch.setitem(sys.modules, "ray", None)
    found = lm("serve", "a", *words)
    assert (found.status, len(found.err.splitlines())) == (status, 1)
    assert said in found.err


@needs_ray
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--device=cuda:1"], "--device cuda:1: Ray chooses which, so say cuda"),
        (["--require-audit"], "has no audit"),
    ],
)
def test_what_is_said_before_ray_starts(lm, trained, words, said):
    found = lm("serve", trained / "checkpoints/gpt", "--port=0", "--replicas=2", *words)
    assert found.status in (1, 2) and said in found.err, found.err
    assert len(found.err.splitlines()) == 1 and "ray" not in sys.modules


@pytest.mark.alone
@needs_ray
def test_two_answer_as_one_does(two, serving, trained):
    http = two.http
    prompts = ["def ", "class", "import o", "return"]
    asked = [{"model": "gpt", "prompt": each, "max_tokens": 12, "temperature": 0} for each in prompts]
    with serving({"gpt": language.load(trained / "checkpoints/gpt")}) as single:
        alone = [httpx.post(f"{single}/v1/completions", json=each).json()["choices"] for each in asked]
    for _ in range(3):
        assert [http.post("/v1/completions", json=each).json()["choices"] for each in asked] == alone
    with openai.OpenAI(base_url=f"{two.url}/v1", api_key=KEY, max_retries=0) as client:
        parts = [each.choices[0].text for each in client.completions.create(**asked[0], stream=True)]
        assert "".join(parts) == alone[0][0]["text"]  # in how many parts goes by who is busy

    assert http.post("/v1/completions", json={"model": "gpt"}).json()["error"]["param"] == "prompt"
    wrong = httpx.post(f"{two.url}/v1/completions", json=asked[0])
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (401, "invalid_api_key")
    assert http.post("/v1/completions", content=b"x" * 5_000_000).status_code == 413
    assert "<!doctype html>" in http.get("/").text and http.get("/health").json() == {"status": "ok"}

    with ThreadPoolExecutor(24) as pool:  # each has a place to write at and three to wait
        found = list(pool.map(lambda _: http.post("/v1/completions", json=body(28)), range(24)))
    assert {each.status_code for each in found} == {200, 429}
    refused = [each for each in found if each.status_code == 429]
    assert all(each.headers["retry-after"] == "1" for each in refused)
    assert refused[0].json()["error"]["code"] == "queue_full"
    assert len(replicas(http)) == 2 and min(replicas(http).values()) > 1

    with http.stream("POST", "/v1/completions", json=body(28, n=3, stream=True)) as answer:
        next(answer.iter_lines())  # and the client goes
    until = time.monotonic() + 20
    while 'lm_engine_finished_cancelled{model="gpt"' not in http.get("/metrics").text:
        assert time.monotonic() < until
    assert any("127.0.0.1 POST /v1/completions 429" in line for line in two.said)


@pytest.mark.alone
@needs_ray
def test_only_this_machine_reaches_it(two):
    """All ports but one of each replica, which wants Ray's token, are of the loopback."""
    pids = [two.process.pid, *descendants(two.process.pid)]
    links = [str(link.readlink()) for pid in pids for link in Path(f"/proc/{pid}/fd").iterdir()]
    lines = [line for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().split("\n")]
    rows = [line.split() for line in lines if ":" in line]
    listening = [row[1].split(":") for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in links]
    ports = {port: address for address, port in listening}
    loopback = {"0100007F", "0000000000000000FFFF00000100007F"}
    others = [int(port, 16) for port, address in ports.items() if address not in loopback]
    assert len(ports) > 5 and len(others) == 2
    for port in others:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary("/ray.serve.ASGIService/HandleRequest")
            with pytest.raises(grpc.RpcError) as refused:
                call(b"", timeout=10)
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.alone
@needs_ray
def test_one_is_killed_and_no_answer_is_lost_by_sigterm(two):
    models = "/v1/models"  # whose lines in the log, which come late, are not those that are counted below
    for _ in range(8):
        assert two.http.get(models).status_code == 200
    before, until = replicas(two.http, models), time.monotonic() + 180
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in descendants(two.process.pid)}
    os.kill(next(pid for pid, words in commands.items() if words.startswith(b"ray::ServeReplica")), 9)
    while not replicas(two.http, models).keys() - before:  # another has come, and answers
        two.http.get(models)
        assert time.monotonic() < until
    found, stop, begun = [], threading.Event(), len(two.said)

    def ask():
        with httpx.Client(base_url=two.url, headers=two.http.headers, timeout=30) as client:
            while not stop.is_set():
                try:
                    found.append(client.post("/v1/completions", json=body(25, user="load")))
                except (httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError) as error:
                    found.append(error)
                    return

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    while len(found) < 30:
        stop.wait(0.01)
    started = descendants(two.process.pid)
    two.process.terminate()
    assert two.process.wait() == 0
    stop.set()
    for thread in [*threads, two.reader]:
        thread.join()
    answers = [each for each in found if isinstance(each, httpx.Response)]
    whole = [each.json() for each in answers if each.status_code == 200]
    # Six ask where each replica takes four: one that the others leave alone may be full.
    assert {each.status_code for each in answers} - {429} == {200, 503}
    assert all(each.json()["error"]["code"] == "stopping" for each in answers if each.status_code == 503)
    assert all(each["usage"]["completion_tokens"] == 25 for each in whole)
    assert (
        len(whole) <= sum("POST /v1/completions 200" in line for line in two.said[begun:]) <= len(whole) + 1
    )
    assert two.said[-1] == "stopped"
    assert [pid for pid in started if stat(pid)[:1] not in ([], ["Z"])] == []
