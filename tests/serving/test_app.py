"""OpenAI's interface, by OpenAI's own client and by what no client would send."""

import asyncio
import json
import math
import re
import shutil
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import openai
import pytest
import torch

import lm as package
from lm.convert import export_folder
from lm.serving.engine import Piece, Request, Running
from lm.serving.errors import APIError
from lm.serving.house import Served
from lm.serving.limits import Limits
from lm.serving.security import Keys, read_keys
from lm.serving.writing import ended

PROMPT = "def parse"
HELLO = [{"role": "user", "content": "Hi"}]
LONG = {"model": "gpt", "prompt": PROMPT, "max_tokens": 500, "temperature": 0}


def until(true, seconds=5.0):
    """Wait for something."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


# What OpenAI's client asks.


def test_models(client):
    found = {each.id: each for each in client.models.list()}
    assert list(found) == ["gpt", "chat", "bert", "classifier", "tagger", "finder"]
    assert client.models.retrieve("chat").model_dump()["abilities"][0] == "chat/completions"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("../../etc/passwd")


def test_folders_chat_where_the_model_has_learned_to(models, tmp_path):
    for name, chats in (("gpt", False), ("chat", True)):
        export_folder(models[name].model, tmp_path / name)
        served = Served(name, package.load(tmp_path / name))
        assert served.card["abilities"] == ["chat/completions"] * chats + ["completions", "embeddings"]
        served.stop()


def test_completions_are_what_the_model_writes(client, models):
    alone = models["gpt"].generate([PROMPT, "class A"], 12, temperature=0)
    ask = {"model": "gpt", "max_tokens": 12, "temperature": 0}
    one = client.completions.create(prompt=PROMPT, **ask)
    assert (one.choices[0].text, one.choices[0].finish_reason) == (alone[0], "length")
    ids = [models["gpt"].tokenizer.bos_id, *models["gpt"].tokenizer.encode(PROMPT)]
    assert (one.usage.prompt_tokens, one.usage.completion_tokens) == (len(ids), 12)
    assert [c.text for c in client.completions.create(prompt=[PROMPT, "class A"], **ask).choices] == alone
    assert client.completions.create(prompt=ids, **ask).choices[0].text == alone[0]
    assert [c.text for c in client.completions.create(prompt=[ids, ids], **ask).choices] == [alone[0]] * 2
    stop = alone[0][4:6]
    ended = client.completions.create(prompt=PROMPT, stop=stop, **ask).choices[0]
    assert (ended.text, ended.finish_reason) == (alone[0][: alone[0].index(stop)], "stop")
    biased = client.completions.create(prompt=PROMPT, logit_bias={"40": 100}, **ask)
    assert biased.choices[0].text == models["gpt"].tokenizer.decode([40] * 12)


def test_choices_have_their_own_seeds(client):
    ask = {"model": "gpt", "prompt": PROMPT, "max_tokens": 12, "n": 3}
    first, again = (
        [each.text for each in client.completions.create(seed=5, **ask).choices] for _ in range(2)
    )
    assert first == again and len(set(first)) == 3
    assert client.completions.create(**{**ask, "n": 1, "seed": 6}).choices[0].text == first[1]
    drawn = [client.completions.create(**ask).choices[0].text for _ in range(2)]
    assert drawn[0] != drawn[1]


def test_log_probabilities_are_the_models_own(client, models):
    """Also those of the prompt, alone and before an answer."""
    gpt = models["gpt"]
    ids = [gpt.tokenizer.bos_id, *gpt.tokenizer.encode(PROMPT)]
    ask = {"model": "gpt", "prompt": PROMPT, "temperature": 0, "logprobs": 3, "echo": True}
    found = client.completions.create(max_tokens=6, **ask)
    logprobs = found.choices[0].logprobs
    network, whole = gpt.writer(), list(ids)
    with torch.no_grad():
        for _ in range(6):  # what it wrote may be cut otherwise when it is read
            whole.append(network(torch.tensor([whole]))[0, -1].argmax().item())
        said = network(torch.tensor([whole]))[0].log_softmax(-1)
    expected = [said[i, id].item() for i, id in enumerate(whole[1:])]
    assert logprobs.token_logprobs[0] is None
    assert logprobs.token_logprobs[1:] == pytest.approx(expected, abs=1e-4)
    part, spelled = "bytes:\\x", b""  # of a character, as OpenAI writes it
    for at, token in zip(logprobs.text_offset[1:], logprobs.tokens[1:], strict=True):
        assert token.startswith(part) or found.choices[0].text[at:].startswith(token)
        spelled += bytes.fromhex(token[len(part) :]) if token.startswith(part) else token.encode()
    assert spelled.decode(errors="replace") == found.choices[0].text
    best = said.topk(3).values
    for i, top in enumerate(logprobs.top_logprobs[1:]):
        assert sorted(top.values())[-3:] == pytest.approx(sorted(best[i].tolist()), abs=1e-4)
    alone = client.completions.create(max_tokens=0, **ask).choices[0]
    assert alone.text == PROMPT and alone.logprobs.token_logprobs == logprobs.token_logprobs[: len(ids)]


def test_streams_join_to_the_whole(client):
    ask = {"model": "gpt", "prompt": [PROMPT, "x"], "max_tokens": 20, "seed": 3, "n": 2, "logprobs": 1}
    whole = client.completions.create(**ask, echo=True)
    texts, tokens, ends = [""] * 4, [[] for _ in range(4)], [None] * 4
    used = None
    for chunk in client.completions.create(
        **ask, echo=True, stream=True, stream_options={"include_usage": True}
    ):
        used = chunk.usage or used
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            tokens[choice.index] += choice.logprobs.tokens
            ends[choice.index] = choice.finish_reason
    assert texts == [choice.text for choice in whole.choices]
    assert tokens == [choice.logprobs.tokens for choice in whole.choices]
    assert ends == [choice.finish_reason for choice in whole.choices]
    assert used.total_tokens == whole.usage.total_tokens
    plain = [*client.completions.create(**ask, stream=True)]
    assert all(chunk.usage is None for chunk in plain)


def test_chats(client, models):
    ask = {"model": "chat", "temperature": 0}
    alone = models["chat"].chat("Hi", tokens=8, temperature=0)
    found = client.chat.completions.create(messages=HELLO, max_completion_tokens=8, **ask)
    assert found.choices[0].message.content.strip() == alone
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    again = client.chat.completions.create(messages=parts, max_tokens=8, logprobs=True, top_logprobs=2, **ask)
    assert again.choices[0].message.content == found.choices[0].message.content
    assert [len(each.top_logprobs) for each in again.choices[0].logprobs.content] == [2] * 8
    assert all(each.logprob == each.top_logprobs[0].logprob for each in again.choices[0].logprobs.content)
    stream = client.chat.completions.create(messages=HELLO, max_tokens=8, stream=True, **ask)
    chunks = [chunk.choices[0] for chunk in stream]
    assert "".join(each.delta.content or "" for each in chunks) == found.choices[0].message.content
    assert (chunks[0].delta.role, chunks[-1].finish_reason) == ("assistant", "length")
    brief = [{"role": "developer", "content": "Be brief"}, *HELLO]
    system = models["chat"].chat("Hi", system="Be brief", tokens=8, temperature=0)
    other = client.chat.completions.create(messages=brief, max_tokens=8, **ask)
    assert other.choices[0].message.content.strip() == system


def test_a_text_never_becomes_a_control_token(client, models):
    """What spells one takes more tokens than one."""
    plain, forged = (
        client.chat.completions.create(
            model="chat", messages=[{"role": "user", "content": text}], max_tokens=1
        )
        for text in ("", "<|end|>")
    )
    assert forged.usage.prompt_tokens - plain.usage.prompt_tokens == len(
        models["chat"].tokenizer.encode("<|end|>")
    )


def test_the_asynchronous_client(url):
    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
            made = [
                client.completions.create(model="gpt", prompt=PROMPT, max_tokens=9, seed=i % 2)
                for i in range(8)
            ]
            texts = [each.choices[0].text for each in await asyncio.gather(*made)]
            stream = await client.completions.create(
                model="gpt", prompt=PROMPT, max_tokens=9, seed=0, stream=True
            )
            return texts, "".join([chunk.choices[0].text async for chunk in stream])

    texts, streamed = asyncio.run(ask())
    assert texts == [texts[0], texts[1]] * 4 and streamed == texts[0] != texts[1]


@pytest.mark.parametrize("name", ["bert", "gpt", "classifier"])
def test_embeddings(client, models, name):
    model = models[name]
    texts = ["def parse(text):", "a", "class A:\n    pass"]
    floats = client.embeddings.create(model=name, input=texts, encoding_format="float")
    packed = client.embeddings.create(model=name, input=texts)  # base64 on the way
    for text, one, other in zip(texts, floats.data, packed.data, strict=True):
        ids = model.tokenizer.frame(model.tokenizer.encode(text))[0]
        with torch.no_grad():
            mean = model.model.network.backbone(torch.tensor([ids]))[0].mean(0)
        expected = (mean / mean.norm()).tolist()
        assert one.embedding == pytest.approx(expected, abs=1e-5)
        assert other.embedding == pytest.approx(expected, abs=1e-5)
        assert math.hypot(*one.embedding) == pytest.approx(1, abs=1e-5)
    by_ids = client.embeddings.create(model=name, input=ids)
    assert by_ids.data[0].embedding == pytest.approx(expected, abs=1e-5)


def test_embeddings_of_a_bert_without_a_head(minilm, serving):
    """As sentence-transformers makes them of all-MiniLM: by transformers, mean and norm."""
    transformers = pytest.importorskip("transformers")
    import lm

    texts = ["A man is eating food.", "Someone eats.", "The sky is blue today, is it not?"]
    words = transformers.AutoTokenizer.from_pretrained(minilm)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = transformers.AutoModel.from_pretrained(minilm)(**words).last_hidden_state
    mask = words["attention_mask"][..., None]
    expected = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    with serving({"minilm": lm.load(minilm)}) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="x") as c:
        found = torch.tensor(
            [each.embedding for each in c.embeddings.create(model="minilm", input=texts).data]
        )
    assert (found - expected).abs().max() < 1e-4
    assert found[0] @ found[1] > found[0] @ found[2] + 0.2


# What is ours.


def test_tasks(http, models):
    def ask(path, **body):
        found = http.post(f"/v1/{path}", json=body)
        assert found.status_code == 200, found.text
        return [{k: v for k, v in row.items() if k != "index"} for row in found.json()["data"]]

    texts = ["good", "def parse(a):"]
    assert ask("classify", model="classifier", input=texts) == models["classifier"].classify(texts)
    assert ask("classify", model="classifier", input="a", pair="b") == [
        models["classifier"].classify("a", "b")
    ]
    assert ask("tag", model="tagger", input=["Ada is here"]) == models["tagger"].tag(["Ada is here"])
    question, context = "Who is here?", "Ada is here today."
    asked = ask("answer", model="finder", question=question, context=context)
    assert asked == [models["finder"].answer(question, context)]
    (filled,) = ask("fill", model="bert", input="import <mask>", best=3)
    pairs = [(each["text"], each["probability"]) for each in filled["masks"][0]]
    assert pairs == models["bert"].fill("import <mask>", best=3)[0]


def test_what_else_there_is(http):
    assert http.get("/health").json() == {"status": "ok"}
    page = http.get("/")
    assert "<form" in page.text and "default-src 'none'" in page.headers["content-security-policy"]
    assert "http" not in page.text.replace("http://www.w3.org", "")  # nothing comes from elsewhere
    paths = http.get("/openapi.json").json()["paths"]
    assert {"/v1/chat/completions", "/v1/embeddings", "/v1/fill"} <= paths.keys()
    http.get("/nowhere/in/particular")
    text = http.get("/metrics").text
    assert 'lm_engine_slots{model="gpt"} 16.0' in text
    assert 'lm_requests_total{path="other",status="404"}' in text and "particular" not in text


@pytest.mark.skipif(not shutil.which("chromium"), reason="no Chromium")
def test_the_page_comes_to_life(url, models, serving):
    """Its script runs under its own policy, and asks for the models; the options are those of the first."""
    words = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000"]
    with serving({"classifier": models["classifier"]}) as alone:
        for address, hidden in ((url, 2), (alone, 6)):
            done = subprocess.run([*words, "--dump-dom", address], capture_output=True, text=True, timeout=60)
            assert '<option value="classifier">' in done.stdout
            assert re.search(r"<textarea[^>]* placeholder=", done.stdout)
            assert len(re.findall(r"<label[^>]* hidden", done.stdout)) == hidden


# What no client would send.

MANY = ["x"] * 10_000
BAD = {
    "not JSON": ("completions", b"{nope", 400, "not JSON"),
    "nothing": ("completions", b"", 400, "JSON object"),
    "not UTF-8": ("completions", b'{"model": "\xff"}', 400, "JSON"),
    "too deep": ("completions", b"[" * 100_000, 400, "JSON"),
    "a list": ("completions", [1], 400, "JSON object"),
    "no prompt": ("completions", {"model": "gpt"}, 400, "`prompt`: it is missing"),
    "a number for a text": ("completions", {"prompt": 5}, 400, "`prompt`"),
    "a text for a number": ("completions", {"prompt": "a", "max_tokens": "5"}, 400, "`max_tokens`"),
    "yes for a number": ("completions", {"prompt": "a", "max_tokens": True}, 400, "`max_tokens`"),
    "unknown model": ("completions", {"model": "gpt-5", "prompt": "a"}, 404, "only gpt, chat"),
    "half a surrogate": ("completions", b'{"model": "gpt", "prompt": "\\ud800"}', 400, "unicode"),
    "another's model": ("completions", {"model": "bert", "prompt": "a"}, 400, "ask /v1/fill"),
    "no chat": ("chat/completions", {"messages": HELLO}, 400, "ask /v1/completions"),
    "empty prompt": ("completions", {"prompt": ""}, 400, "`prompt` is empty"),
    "no prompts": ("completions", {"prompt": []}, 400, "`prompt`"),
    "an empty one": ("completions", {"prompt": ["a", ""]}, 400, "`prompt` is empty"),
    "too long": ("completions", {"prompt": "ab " * 600}, 400, "sees 512 tokens"),
    "no such token": ("completions", {"prompt": [5, 100_000]}, 400, "token ids are below"),
    "negative token": ("completions", {"prompt": [-1]}, 400, "`prompt`"),
    "negative tokens": ("completions", {"prompt": "a", "max_tokens": -1}, 400, "`max_tokens`"),
    "huge tokens": ("completions", {"prompt": "a", "max_tokens": 10**30}, 400, "sees 512 tokens"),
    "not a number": ("completions", b'{"model": "gpt", "prompt": "a", "temperature": NaN}', 400, "finite"),
    "infinite": ("completions", b'{"model": "gpt", "prompt": "a", "top_p": -Infinity}', 400, "finite"),
    "too hot": ("completions", {"prompt": "a", "temperature": 3}, 400, "`temperature`"),
    "10,000 stops": (
        "completions",
        {"prompt": "a", "stop": MANY},
        400,
        "`stop`: list should have at most 16",
    ),
    "a long stop": ("completions", {"prompt": "a", "stop": "x" * 300}, 400, "`stop`"),
    "many prompts": ("completions", {"prompt": MANY}, 400, "`prompt`: list should have at most 64"),
    "n": ("completions", {"prompt": "a", "n": 1000}, 400, "`n`"),
    "prompts times n": ("completions", {"prompt": ["a"] * 64, "n": 16}, 400, "64 at most"),
    "a strange bias": ("completions", {"prompt": "a", "logit_bias": {"x": 1}}, 400, "`logit_bias`"),
    "a bias beyond": ("completions", {"prompt": "a", "logit_bias": {"9" * 99: 1}}, 400, "`logit_bias`"),
    "tools": ("chat/completions", {"messages": HELLO, "tools": [{"type": "function"}]}, 400, "`tools`"),
    "roles": ("chat/completions", {"model": "chat", "messages": HELLO * 2}, 400, "take turns"),
    "no role": (
        "chat/completions",
        {"model": "chat", "messages": [{"content": "a"}]},
        400,
        "`messages.role`",
    ),
    "an image": (
        "chat/completions",
        {"model": "chat", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        400,
        "`messages.content",
    ),
    "a long chat": (
        "chat/completions",
        {"model": "chat", "messages": [{"role": "user", "content": "x" * 300}]},
        400,
        "shorten it",
    ),
    "no mask": ("fill", {"model": "bert", "input": "a"}, 400, "there is no <mask>"),
    "nothing to classify": (
        "classify",
        {"model": "classifier", "input": " "},
        400,
        "`input`: a text is empty",
    ),
    "half pairs": ("classify", {"model": "classifier", "input": ["a", "b"], "pair": "c"}, 400, "`pair`"),
    "long to embed": ("embeddings", {"model": "bert", "input": "ab " * 99}, 400, "sees 64"),
    "fewer numbers": ("embeddings", {"model": "bert", "input": "a", "dimensions": 3}, 400, "`dimensions`"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests(http, name):
    path, body, status, words = BAD[name]
    if isinstance(body, dict):
        body = {"model": "gpt", **body}
    sent = body if isinstance(body, bytes) else json.dumps(body)
    found = http.post(f"/v1/{path}", content=sent, headers={"Content-Type": "application/json"})
    assert found.status_code == status, found.text
    error = found.json()["error"]
    assert words in error["message"] and set(error) == {"message", "type", "param", "code"}


def test_what_means_nothing_here_is_ignored(client):
    found = client.completions.create(
        model="gpt", prompt=PROMPT, max_tokens=2, user="me", suffix=None, best_of=1, extra_body={"x": 1}
    )
    assert found.choices[0].text


def test_addresses_that_are_none(http):
    for method, path, status in (
        ("GET", "/nothing", 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/v1/completions", 405),
        ("POST", "/", 405),
    ):
        found = http.request(method, path)
        assert (found.status_code, set(found.json()["error"])) == (
            status,
            {"message", "type", "param", "code"},
        )
    assert http.get("/", headers={"Host": "evil.example"}).status_code == 403
    plain = http.post("/v1/completions", content='{"model": "gpt"}', headers={"Content-Type": "text/plain"})
    assert (plain.status_code, "Content-Type: application/json" in plain.text) == (400, True)


# Keys, limits, and who goes away.


def test_keys(models, serving, tmp_path):
    (tmp_path / "keys").write_text("# ours\nfirst-key\n\nsecond-key  # theirs\n")
    keys = read_keys(str(tmp_path / "keys"), "third-key,")
    assert len(keys) == 3 and keys.accept("Bearer second-key") and keys.accept("bearer third-key")
    assert not any(map(keys.accept, ("", "Bearer", "Bearer ", "second-key", "Bearer second-ke", "Basic x")))
    assert Keys().accept("")
    with serving({"gpt": models["gpt"]}, keys=["a-key"]) as url, httpx.Client(base_url=url) as http:
        body = {"model": "gpt", "prompt": "a"}
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer \xff"}):
            raw = {name: value.encode("latin-1") for name, value in headers.items()}
            refused = http.post("/v1/completions", json=body, headers=raw)
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
            assert refused.headers["www-authenticate"] == "Bearer"
        assert http.get("/v1/models").status_code == http.get("/metrics").status_code == 401
        assert http.get("/health").status_code == http.get("/").status_code == 200
        with openai.OpenAI(base_url=f"{url}/v1", api_key="a-key") as client:
            assert client.completions.create(**body).choices


@pytest.fixture(scope="module")
def narrow(models, serving):
    """A server with room for little."""
    limits = Limits(body=50_000, seconds=1, upload=0.5, linger=1)
    with serving({"gpt": models["gpt"]}, limits=limits, slots=1, queue=1) as address:
        yield address


def test_large_bodies(narrow):
    """Whether they say how large they are or not."""
    large = b"x" * 100_000_000
    headers = {"Content-Type": "application/json"}
    found = httpx.post(f"{narrow}/v1/completions", content=large, headers=headers)
    assert (found.status_code, found.json()["error"]["code"]) == (413, "too_large")
    parts = (large[:10_000] for _ in range(1000))
    found = httpx.post(f"{narrow}/v1/completions", content=parts, headers=headers)
    assert found.status_code == 413
    assert httpx.get(f"{narrow}/health").status_code == 200


def test_slow_clients_and_half_requests(narrow, monkeypatch):
    from lm.serving import server

    monkeypatch.setattr(server, "HEAD_SECONDS", 0.3)
    host, port = narrow.removeprefix("http://").split(":")
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: 99\r\n".encode()
    for sent, expected in ((b"", b""), (head[:30], b""), (head + b"\r\n{", b"HTTP/1.1 408")):
        with socket.create_connection((host, int(port)), timeout=5) as half:
            half.sendall(sent)
            begun = time.monotonic()
            try:
                received = half.recv(1000)
            except ConnectionResetError:
                received = b""
            assert received[:12] == expected
            assert time.monotonic() - begun < 2


def test_a_thousand_connections(narrow, monkeypatch):
    """Some find room, some are told that there is none, the others are closed."""
    host, port = narrow.removeprefix("http://").split(":")
    monkeypatch.setattr(narrow.server.config, "limit_concurrency", 50)
    with ExitStack() as stack:

        def connect(count):
            made = [socket.create_connection((host, int(port)), timeout=5) for _ in range(count)]
            return [stack.enter_context(each) for each in made]

        connect(40)
        assert httpx.get(f"{narrow}/health").status_code == 200
        connect(60)
        assert httpx.get(f"{narrow}/health").status_code == 503
        assert connect(70)[-1].recv(1) == b""
    until(lambda: len(narrow.server.server_state.connections) < 50)
    assert httpx.get(f"{narrow}/health").status_code == 200


def engine_of(url):
    return url.house.models["gpt"].engine


def slow(monkeypatch, seconds=0.02):
    """Let each piece take its time in the engine's thread."""
    give = Running.give

    def slowly(self, piece):
        time.sleep(seconds)
        give(self, piece)

    monkeypatch.setattr(Running, "give", slowly)


def test_a_full_queue_and_the_end_of_time(narrow, monkeypatch):
    slow(monkeypatch)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(httpx.post, f"{narrow}/v1/completions", json=LONG, timeout=9) for _ in range(4)]
        found = sorted((each.result() for each in asked), key=lambda each: each.status_code)
    # The second's turn comes when its own time is over, too, or a moment before.
    assert [each.status_code for each in found] in ([200, 429, 429, 503], [200, 200, 429, 429])
    turned = next(each for each in found if each.status_code == 429)
    assert (turned.headers["retry-after"], turned.json()["error"]["code"]) == ("1", "queue_full")
    choices = [each.json()["choices"][0] for each in found if each.status_code == 200]
    assert {each["finish_reason"] for each in choices} == {"length"} and choices[0]["text"]
    until(lambda: engine_of(narrow).stats().running == 0)


def test_a_turn_that_did_not_come():
    run = Running(Request(ids=(1,), max_tokens=1))
    run.give(Piece("", (), "timeout"))
    with pytest.raises(APIError, match="did not come in time") as error:
        ended(asyncio.run(run.whole()))
    assert (error.value.status, error.value.headers) == (503, {"Retry-After": "1"})


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_its_slot(url, monkeypatch, stream):
    engine = engine_of(url)
    slow(monkeypatch)
    before = engine.stats()
    with pytest.raises(httpx.ReadTimeout), httpx.Client(timeout=0.2) as client:
        body = {**LONG, "stream": stream, "n": 2}
        with client.stream("POST", f"{url}/v1/completions", json=body) as response:
            next(response.iter_lines())
            assert engine.stats().running == 2
            raise httpx.ReadTimeout("enough")
    until(lambda: engine.stats().running == 0, 1)
    after = engine.stats()
    assert after.finished["cancelled"] == before.finished.get("cancelled", 0) + 2
    assert after.written_tokens - before.written_tokens < 60
    until(lambda: url.server.guard.running == 0)


def test_an_error_in_the_engine_is_said(url, http, client, monkeypatch):
    give = Running.give

    def broken(self, piece):
        if piece.finish is None:
            raise RuntimeError(f"the text was {PROMPT}")
        give(self, piece)

    monkeypatch.setattr(Running, "give", broken)
    found = http.post("/v1/completions", json=LONG)
    assert (found.status_code, found.json()["error"]["code"]) == (500, "internal_error")
    with pytest.raises(openai.APIError, match="its log says where"):
        [*client.completions.create(**LONG, stream=True)]
    monkeypatch.undo()
    assert http.post("/v1/completions", json={**LONG, "max_tokens": 3}).status_code == 200


def test_nothing_of_a_request_is_logged(models, serving, monkeypatch, caplog):
    """Neither by the lines of requests, nor where something fails."""
    caplog.set_level("INFO")
    with serving({"chat": models["chat"]}, log=True) as url:
        chat = url.house.models["chat"].chat

        def broken(self, messages, *_):
            raise RuntimeError(f"can't read {messages}")

        monkeypatch.setattr(type(chat), "render", broken)
        body = {"model": "chat", "messages": [{"role": "user", "content": "secret"}]}
        failed = httpx.post(f"{url}/v1/chat/completions?secret=1", json=body)
        assert (failed.status_code, failed.json()["error"]["code"]) == (500, "internal_error")
    said = "\n".join(each.getMessage() for each in caplog.records if each.name != "httpx")
    assert "POST /v1/chat/completions 500" in said and "RuntimeError in" in said
    assert "test_app.py" in said and "secret" not in said


def test_stopping(models, serving, monkeypatch):
    """Those that run end, new ones are turned away, and what takes too long is told so."""
    slow(monkeypatch, 0.03)
    for grace, expected in ((20, 200), (0.8, 503)):
        with serving({"gpt": models["gpt"]}, grace=grace) as url, ThreadPoolExecutor(1) as pool:
            asked = pool.submit(httpx.post, f"{url}/v1/completions", json={**LONG, "max_tokens": 60})
            until(lambda: engine_of(url).stats().running == 1)
            url.server.handle_exit(15, None)
            turned = httpx.post(f"{url}/v1/completions", json=LONG)
            assert (turned.status_code, turned.json()["error"]["code"]) == (503, "stopping")
            assert httpx.get(f"{url}/health").status_code == 503
            found = asked.result()
            assert found.status_code == expected
            if expected == 200:
                assert found.json()["usage"]["completion_tokens"] == 60
