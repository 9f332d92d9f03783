"""`lm serve`: what it says, what it refuses, and how it ends."""

import shlex
import shutil
import signal
import sys
import threading
from types import SimpleNamespace

import httpx
import pytest


@pytest.fixture
def start(start_lm, trained):
    """Starts `lm serve` of the GPT, waits until it answers: the process, the address, and what it said."""

    def serve(*words, models=("checkpoints/gpt",)):
        process = start_lm("serve", *(trained / each for each in models), "--port=0", *words)
        said = []
        for line in process.stderr:
            said.append(line.rstrip())
            if line.startswith("stop it"):
                break
        assert said and said[-1].startswith("stop it"), said
        address = next(line.split()[2].rstrip(",") for line in said if line.startswith("serving at"))
        return SimpleNamespace(process=process, url=address, said=said)

    return serve


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ([], 2, "MODEL"),
        (["nowhere"], 1, "nowhere"),
        (["a", "b/a"], 2, "two models are called a: give one another name, as in small=b/a"),
        (["x=a", "x=b"], 2, "two models are called x"),
        (["a", "--port=99999"], 2, "--port 99999: it must be at most 65535"),
        (["a", "--host=192.0.2.1"], 1, "can't be opened"),
        (["a", "--slots=0"], 2, "--slots 0: it must be at least 1"),
        (["a", "--timeout=nan"], 2, "--timeout nan"),
        (["a", "--keys=none"], 1, "none: No such file"),
        (["a", "--workers=2"], 2, "there is no option --workers"),
    ],
)
def test_wrong_usage(lm, words, status, said):
    found = lm("serve", *words, *([] if "--port=99999" in words else ["--port=0"]))
    assert (found.status, found.out) == (status, ""), found.err
    assert said in found.err and len(found.err.splitlines()) == 1


def test_an_empty_file_of_keys(lm, tmp_path, monkeypatch):
    (tmp_path / "keys").write_text("# none yet\n")
    assert "keys has no key" in lm("serve", "a", "--keys=keys").err
    monkeypatch.setenv("LM_API_KEYS", " ")
    assert "LM_API_KEYS has no key" in lm("serve", "a").err


def test_without_its_packages(lm, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    found = lm("serve", "a")
    assert found.status == 1 and "pip install -e '.[serve]'" in found.err


def test_what_it_says_and_two_on_one_port(start, lm, trained):
    made = start("--log-requests", models=("checkpoints/gpt", "checkpoints/bert/best.ckpt"))
    text = "\n".join(made.said)
    assert "gpt: a pretrained GPT that sees 32 tokens; /v1/completions" in text
    assert "bert: a pretrained BERT" in text and f"kill {made.process.pid}" in text
    words = shlex.split(
        next(line for line in made.said if line.startswith("try it:")).removeprefix("try it:")
    )
    assert words[0] == "curl" and "127.0.0.1" in words[1]
    found = httpx.post(words[1], content=words[-1], headers=dict([words[3].split(": ")]))
    assert found.json()["usage"]["completion_tokens"] == 16, found.text  # half of what it sees
    assert httpx.post(f"{made.url}/v1/fill", json={"model": "bert", "input": "<mask>"}).status_code == 200

    again = lm("serve", trained / "checkpoints/gpt", f"--port={made.url.rpartition(':')[2]}")
    assert again.status == 1 and "Address already in use; --port N takes another" in again.err
    assert len(again.err.splitlines()) == 1

    made.process.send_signal(signal.SIGINT)
    out, err = made.process.communicate()
    assert (made.process.returncode, out) == (0, "")
    assert "127.0.0.1 POST /v1/completions 200" in err and err.endswith("stopped\n")
    assert "def parse" not in err


def test_a_file_that_is_replaced_meanwhile(start, trained, tmp_path):
    path = tmp_path / "own" / "best.ckpt"
    path.parent.mkdir()
    shutil.copyfile(trained / "checkpoints/gpt/best.ckpt", path)
    made = start(models=(path,))
    body = {"model": "own", "prompt": "def", "max_tokens": 20, "temperature": 0}
    before = httpx.post(f"{made.url}/v1/completions", json=body).json()["choices"]
    path.write_bytes(b"")
    assert httpx.post(f"{made.url}/v1/completions", json=body).json()["choices"] == before


def test_keys_and_other_machines(start, tmp_path):
    open_to_all = start("--host=0.0.0.0")
    assert any("there are no keys" in line for line in open_to_all.said)
    assert httpx.get(open_to_all.url + "/v1/models", headers={"Host": "some.name"}).status_code == 200
    (tmp_path / "keys").write_text("a-key-of-20-characters\n")
    guarded = start("--host=0.0.0.0", f"--keys={tmp_path / 'keys'}")
    assert not any("there are no keys" in line for line in guarded.said)
    assert any("Authorization: Bearer KEY" in line for line in guarded.said)
    assert httpx.get(guarded.url + "/v1/models").status_code == 401
    headers = {"Authorization": "Bearer a-key-of-20-characters"}
    assert httpx.get(guarded.url + "/v1/models", headers=headers).status_code == 200


def test_sigterm_under_load_loses_no_answer(start):
    """Each request has its whole answer, or none: turned away, or the port closed before it was read."""
    made = start("--grace=20", "--log-requests")
    body = {"model": "gpt", "prompt": "d", "max_tokens": 25, "temperature": 0, "logit_bias": {"100": 50}}
    found, stop = [], threading.Event()

    def ask():
        with httpx.Client(timeout=30) as client:
            while not stop.is_set():
                try:
                    found.append(client.post(f"{made.url}/v1/completions", json=body))
                except (httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError) as error:
                    found.append(error)
                    return

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    while len(found) < 30:
        stop.wait(0.01)
    made.process.terminate()
    assert made.process.wait() == 0
    stop.set()
    for thread in threads:
        thread.join()
    answers = [each for each in found if isinstance(each, httpx.Response)]
    assert {each.status_code for each in answers} <= {200, 503}
    assert all(each.json()["usage"]["completion_tokens"] == 25 for each in answers if each.status_code == 200)
    assert all(each.json()["error"]["code"] == "stopping" for each in answers if each.status_code == 503)
    assert len(answers) == made.process.communicate()[1].count("POST /v1/completions")
