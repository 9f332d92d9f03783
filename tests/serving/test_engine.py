"""What the engine gives each request is what it would get alone, whoever comes and goes beside it."""

import asyncio
import random
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import lm
from lm.backbone import BackboneConfig, LanguageModel
from lm.backbone.quantised import QuantisedLinear, put_quantised
from lm.errors import UserError
from lm.inference import decoder
from lm.inference.batch import complete
from lm.inference.generate import Sampling, prompt_ids
from lm.inference.scoring import score
from lm.serving.engine import Closed, Engine, Full, Request
from lm.serving.prefixes import BLOCK, Prefixes
from lm.serving.slots import Slots

KINDS = {
    "gpt2": {"positions": "learned", "norm": "layer", "bias": True, "mlp": "gelu_tanh"},
    "llama": {"mlp": "swiglu", "num_kv_heads": 2, "tie_embeddings": False},
    "qwen3": {"qk_norm": True, "num_kv_heads": 1, "head_dim": 16, "attention_bias": True},
    "window": {"window": 5, "global_every": 2, "local_rope_theta": 100.0, "norm": "layer"},
    "after": {"norm_position": "after", "mlp": "relu2", "embedding_norm": True, "segments": 2},
}


def network(**changes) -> LanguageModel:
    """A model with weights large enough that every detail shows, and no two tokens are nearly as likely."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_layers": 3, "num_heads": 4, "vocab_size": 420, "max_seq_len": 96}
    model = LanguageModel(BackboneConfig(**{**shape, **changes})).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(5) if p.ndim == 2 else p.add_(torch.randn_like(p) / 3)
    return model


@pytest.fixture
def serve(tokenizer):
    """Starts an engine for a network; all are stopped, and have to have ended whatever they were asked."""
    engines = []

    def start(model: LanguageModel, run: bool = True, **options) -> Engine:
        opened = SimpleNamespace(
            writer=lambda: model, tokenizer=tokenizer, model=SimpleNamespace(source="a/b.ckpt")
        )
        engines.append(Engine(opened, **options))
        if run:
            engines[-1].start()
        return engines[-1]

    yield start
    for engine in engines:
        engine.stop(0)
        stats = engine.stats()
        assert (stats.running, stats.waiting) == (0, 0) and not engine._thread.is_alive()
        assert not engine._batch.slots.lengths and not engine._batch.writing and not engine._batch.reading


def prompts(number: int, longest: int = 40) -> list[tuple[int, ...]]:
    """Random ids, some with a beginning in common."""
    draw = random.Random(1)
    common = [draw.randrange(3, 420) for _ in range(longest)]
    lengths = [draw.randint(1, longest) for _ in range(number)]
    return [
        (*common[: length // 2 * draw.randint(0, 1)], *(draw.randrange(3, 420) for _ in range(length)))[
            :longest
        ]
        for length in lengths
    ]


def ids_of(pieces) -> list[int]:
    return [token.id for piece in pieces for token in piece.tokens]


def alone(model, tokenizer, request: Request) -> list[int]:
    """What `lm generate` writes, up to the end of the text; with a seed, what an engine of its own does."""
    if request.temperature:
        opened = SimpleNamespace(
            writer=lambda: model, tokenizer=tokenizer, model=SimpleNamespace(source="a/b.ckpt")
        )
        engine = Engine(opened, slots=1, prefix_cache_bytes=0)
        running = engine.submit(replace(request, seconds=None))
        engine.start()
        ids = ids_of(running.pieces())
        engine.stop()
        return without_end(ids, request, tokenizer)
    ends = (tokenizer.eos_id, *request.stop_ids)
    return complete(
        model, [request.ids], request.max_tokens, ends, Sampling(0), vocab_size=tokenizer.vocab_size
    )[0]


def without_end(ids: list[int], request: Request, tokenizer) -> list[int]:
    return ids[:-1] if ids and ids[-1] in (tokenizer.eos_id, *request.stop_ids) else ids


@pytest.mark.parametrize("copied", [True, False], ids=["prepared", "as it is"])
@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
def test_every_kind_of_model(changes, copied, serve, tokenizer, monkeypatch):
    model = network(**changes)
    if not copied:
        monkeypatch.setattr(decoder, "MOST", 0)
    engine = serve(model, slots=5, prefill=16)
    asked = [Request(ids, 1 + place * 7 % 23, temperature=0) for place, ids in enumerate(prompts(12))]
    running = [engine.submit(request) for request in asked]
    for request, each in zip(asked, running, strict=True):
        pieces = [*each.pieces()]
        assert without_end(ids_of(pieces), request, tokenizer) == alone(model, tokenizer, request)
        assert pieces[-1].finish in ("length", "stop")
    assert engine.stats().finished.keys() <= {"length", "stop"}


@pytest.mark.parametrize("bits", [8, 4])
def test_quantised(bits, serve, tokenizer):
    model = network(hidden_size=64)
    names = [
        name
        for name, each in model.named_modules()
        if name.startswith("backbone.blocks") and hasattr(each, "weight") and each.weight.ndim == 2
    ]
    put_quantised(model, names, bits, 32 if bits == 4 else 0)
    for each in model.modules():
        if isinstance(each, QuantisedLinear):
            each.values.random_(*((-127, 128) if bits == 8 else (0, 256)))
            each.scales.fill_(0.002 if bits == 8 else 0.03)
            if bits == 4:
                each.zeros.zero_()
    engine = serve(model, prefix_cache_bytes=0)
    asked = [Request(ids, 12, temperature=0) for ids in prompts(6)]
    running = [engine.submit(request) for request in asked]
    for request, each in zip(asked, running, strict=True):
        assert without_end(ids_of(each.pieces()), request, tokenizer) == alone(model, tokenizer, request)


def test_five_hundred_greedy_answers(trained, code_text):
    """A trained model, 8 clients that come when they like: the very text of `generate`."""
    model = lm.load(trained / "checkpoints/gpt")
    engine = Engine(model, slots=16, queue=500, prefill=8)
    engine.start()
    draw = random.Random(0)
    text = code_text.read_text()
    wanted = []
    for _ in range(500):
        at = draw.randrange(len(text) - 20)
        prompt = text[at : at + draw.randint(1, 20)]
        ids = prompt_ids(model.tokenizer, prompt)
        wanted.append((prompt, ids, draw.randint(1, min(16, engine.context - len(ids)))))
    found = [""] * 500

    def client(first: int) -> None:
        for place in range(first, 500, 8):
            _, ids, tokens = wanted[place]
            running = engine.submit(Request(tuple(ids), tokens, temperature=0))
            found[place] = "".join(piece.text for piece in running.pieces())

    clients = [threading.Thread(target=client, args=(n,)) for n in range(8)]
    for each in clients:
        each.start()
    for each in clients:
        each.join()
    engine.stop(0)
    for (prompt, _, tokens), text in zip(wanted, found, strict=True):
        assert model.generate(prompt, tokens=tokens, temperature=0) == text
    stats = engine.stats()
    assert stats.written_tokens / stats.steps > 3, "side by side"


def test_joining_leaving_and_giving_up_at_random(serve, tokenizer):
    """Seeded: whoever stays gets what it gets alone, whoever leaves gets the beginning of it."""
    model = network(num_kv_heads=2)
    engine = serve(model, slots=4, queue=60, prefill=8, prefix_cache_bytes=300_000)
    draw = random.Random(3)
    asked, running = [], []
    for place, ids in enumerate(prompts(60, 60)):
        greedy = draw.random() < 0.5
        asked.append(
            Request(
                ids,
                draw.randint(1, 30),
                temperature=0 if greedy else 1.2,
                top_k=draw.choice([None, 5]),
                top_p=draw.choice([1.0, 0.7]),
                seed=place,
                logprobs=draw.choice([None, 2]),
                stop_ids=tuple(range(3, 20)),
                seconds=draw.choice([None, None, 100, 0]),
            )
        )
        running.append(engine.submit(asked[-1]))
        if draw.random() < 0.2:
            draw.choice(running).cancel()
        time.sleep(draw.choice([0, 0.003]))
    ends = set()
    for request, each in zip(asked, running, strict=True):
        pieces = [*each.pieces()]
        ends.add(pieces[-1].finish)
        assert [piece.finish for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
        ids, expected = without_end(ids_of(pieces), request, tokenizer), alone(model, tokenizer, request)
        if pieces[-1].finish in ("length", "stop"):
            assert ids == expected
        else:
            assert ids == expected[: len(ids)]
        assert "".join(piece.text for piece in pieces) == tokenizer.decode(ids)
    assert ends == {"length", "stop", "cancelled", "timeout"}
    stats = engine.stats()
    assert sum(stats.finished.values()) == 60 and 0 < stats.prefix_bytes <= 300_000
    assert stats.prefix_tokens > 0


def test_a_request_that_is_given_up_ends_within_a_token(serve):
    engine = serve(network(max_seq_len=4096), slots=1)
    long, next_one = (engine.submit(Request((5,), n, temperature=0)) for n in (4000, 1))
    pieces = long.pieces()
    next(pieces)
    long.cancel()
    written = engine.stats().written_tokens
    assert [*next_one.pieces()][-1].finish == "length", "its slot is free"
    assert engine.stats().written_tokens - written <= 3
    assert [*pieces][-1].finish == "cancelled"
    third = engine.submit(Request((5,), 4000, temperature=0)).pieces()
    next(third)
    third.close()  # who leaves gives up
    assert [*engine.submit(Request((5,), 1, temperature=0)).pieces()][-1].finish == "length"


def test_time_is_up(serve):
    engine = serve(network(max_seq_len=4096), slots=1)
    long = engine.submit(Request((5,), 4000, temperature=0, seconds=0.1))
    waits = engine.submit(Request((5,), 4000, temperature=0, seconds=0.05))
    assert [*waits.pieces()] == [("", (), "timeout")]
    pieces = [*long.pieces()]
    assert pieces[-1].finish == "timeout" and len(pieces) > 1


def test_the_queue_is_full(serve):
    engine = serve(network(), slots=2, queue=3, run=False)
    running = [engine.submit(Request((5, 6), 4, temperature=0)) for _ in range(5)]
    with pytest.raises(Full):
        engine.submit(Request((5,), 1, temperature=0))
    assert engine.stats().waiting == 5
    engine.start()
    assert [[*each.pieces()][-1].finish for each in running] == ["length"] * 5
    assert [*engine.submit(Request((5,), 1, temperature=0)).pieces()][-1].finish == "length", (
        "there is room again"
    )


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request((), 1), "empty"),
        (Request((420,), 1), "tokens that are none"),
        (Request((-1,), 1), "tokens that are none"),
        (Request((5,), 0), "max_tokens"),
        (Request((5,), 96), "97 tokens, but the model sees 96"),
        (Request((5,), 1, top_p=0), "top_p"),
        (Request((5,), 1, temperature=float("nan")), "temperature"),
        (Request((5,), 1, logit_bias={420: 1}), "logit_bias"),
        (Request((5,), 1, logprobs=-1), "logprobs"),
    ],
)
def test_what_cannot_be_asked(serve, request_, words):
    with pytest.raises(UserError, match=words):
        serve(network(), run=False).submit(request_)


def test_prefixes_are_read_once(serve, tokenizer):
    """Also a chat that goes on: the answer is there, too."""
    model = network()
    engine = serve(model)
    system = prompts(1, 40)[0] + tuple(range(30, 70))
    first = Request((*system[:40], 9), 20, temperature=0, stop_ids=())
    begun = engine.submit(first)
    written = ids_of(begun.pieces())
    assert begun.prefix_tokens == 0 and engine.stats().prompt_tokens == 41
    other = Request((*system[:40], 11, 12), 20, temperature=0)
    second = engine.submit(other)
    assert without_end(ids_of(second.pieces()), other, tokenizer) == alone(model, tokenizer, other)
    assert second.prefix_tokens == 32 and engine.stats().prompt_tokens == 41 + 42 - 32
    chat = Request((*first.ids, *written, 50, 51), 10, temperature=0)
    third = engine.submit(chat)
    assert without_end(ids_of(third.pieces()), chat, tokenizer) == alone(model, tokenizer, chat)
    assert third.prefix_tokens == (len(first.ids) + len(written) - 1) // BLOCK * BLOCK >= 48
    again = engine.submit(Request(first.ids[:32], 1, temperature=0))
    assert [*again.pieces()] and again.prefix_tokens == 16, "the last token is always read"


def test_the_cache_of_prefixes_is_bounded():
    block = torch.zeros(2, 2, 1, BLOCK, 4).nbytes
    cache = Prefixes(4 * block)

    def keep(*ids: int) -> None:
        cache.keep(ids, torch.tensor(ids, dtype=torch.float32)[:, None].expand(2, 2, 1, len(ids), 4))

    a, b, c = ([n] * BLOCK for n in (1, 2, 3))
    keep(*a, *b, *c, 7)
    assert cache.bytes == 3 * block
    assert [int(each[0, 0, 0, 0, 0]) for each in cache.find([*a, *b, *c, 9])] == [1, 2, 3]
    assert len(cache.find([*a, *b])) == 1, "the last token is not among them"
    assert cache.find([*b, *a, 9]) == [], "another beginning"
    keep(*b, *a)  # five: the end of what was not used goes
    assert len(cache.find([*a, *b, *c, 9])) == 2 and cache.bytes == 4 * block
    keep(*c)  # and of that which is used least
    assert len(cache.find([*b, *a, 9])) == 1 and len(cache.find([*a, *b, 9])) == 2
    Prefixes(0).keep(a, torch.zeros(2, 2, 1, BLOCK, 4))
    keep(*a, *b, *c, *a, *b, *c)  # more than there is room for: its beginning
    assert cache.bytes == 4 * block and len(cache.find([*a, *b, *c, *a, *b, 9])) == 4


def test_a_seed_writes_the_same_text_whatever_else_runs(serve, tokenizer):
    model = network()
    engine = serve(model, slots=8)
    mine = Request((7, 8, 9), 30, temperature=1.5, top_k=20, top_p=0.9, min_p=0.01, seed=11)
    expected = alone(model, tokenizer, mine)
    others = [engine.submit(Request(ids, 40, temperature=1.3)) for ids in prompts(7)]
    for _ in range(3):
        assert without_end(ids_of(engine.submit(mine).pieces()), mine, tokenizer) == expected
    texts = {tuple(ids_of(engine.submit(Request((7,), 10, seed=None)).pieces())) for _ in range(4)}
    assert len(texts) > 1, "without a seed, one is drawn"
    for each in others:
        each.cancel()


@torch.no_grad()
def test_log_probabilities_are_those_of_scoring(serve, tokenizer):
    model = network()
    engine = serve(model, prefill=8)
    ids = tuple(range(20, 45))
    engine.submit(Request(ids, 3, temperature=0)).pieces().__next__()  # a prefix that is not to be used
    running = engine.submit(
        Request(ids, 8, temperature=0.7, seed=1, logprobs=3, echo=True, logit_bias={50: 5})
    )
    tokens = [token for piece in running.pieces() for token in piece.tokens]
    whole = [*ids, *(token.id for token in tokens)]
    scored = score(model, [(whole, 1)])[0].log_probabilities
    known = [*running.prompt_logprobs, *tokens]
    assert [each.id for each in known] == whole and known[0].top == () and known[0].logprob == 0
    torch.testing.assert_close(
        torch.tensor([each.logprob for each in known[1:]]).double(), scored, rtol=1e-4, atol=1e-4
    )
    logits = model(torch.tensor([whole[:-1]]))[0].log_softmax(-1)
    for each, row in zip(known[1:], logits, strict=True):
        best = row[: tokenizer.vocab_size].topk(3)
        assert [id for id, _ in each.top] == best.indices.tolist()
        torch.testing.assert_close(torch.tensor([p for _, p in each.top]), best.values, rtol=1e-4, atol=1e-4)
    assert "".join(each.text for each in running.prompt_logprobs) == tokenizer.decode(list(ids))
    plain = engine.submit(Request(ids, 1, echo=True))
    assert next(plain.pieces()).tokens[0].top == () and len(plain.prompt_logprobs) == len(ids)


def test_a_stop_string_across_tokens(serve, tokenizer):
    engine = serve(network())
    whole = [*engine.submit(Request((7, 8), 40, temperature=0)).pieces()]
    text = "".join(piece.text for piece in whole)
    tokens = [token for piece in whole for token in piece.tokens]
    ends = [sum(len(t.text) for t in tokens[: n + 1]) for n in range(len(tokens))]
    middle = ends[len(ends) // 2]
    stop = text[middle - 2 : middle + 2]  # the end of one token and the beginning of the next
    at = text.find(stop)
    pieces = [*engine.submit(Request((7, 8), 40, temperature=0, stop=("never", stop))).pieces()]
    assert "".join(piece.text for piece in pieces) == text[:at] and pieces[-1].finish == "stop"
    kept = [token for piece in pieces for token in piece.tokens]
    assert len(kept) == sum(end - len(t.text) < at for end, t in zip(ends, tokens, strict=True))
    by_id = [*engine.submit(Request((7, 8), 40, temperature=0, stop_ids=(tokens[5].id,))).pieces()]
    first = next(n for n, token in enumerate(tokens) if token.id == tokens[5].id)
    assert ids_of(by_id) == [token.id for token in tokens[: first + 1]] and by_id[-1].finish == "stop"
    assert by_id[-1].tokens[-1].text == ""


@torch.no_grad()
def test_penalties_and_bias_by_hand(serve, tokenizer):
    model = network()
    bias, presence, frequency = {40: 3.0, 41: -2.0}, 0.5, 1.5
    engine = serve(model)
    for options in (
        {},
        {"presence_penalty": 40.0},
        {"presence_penalty": 9.0, "frequency_penalty": 0.1, "logit_bias": {40: 90.0, 41: 90.0}},
        {"presence_penalty": presence, "frequency_penalty": frequency, "logit_bias": bias},
    ):
        request = Request((7, 8), 30, temperature=0, **options)
        written: list[int] = []
        for _ in range(30):
            logits = model(torch.tensor([[7, 8, *written]]))[0, -1, : tokenizer.vocab_size].clone()
            for id in set(written):
                logits[id] -= request.presence_penalty + written.count(id) * request.frequency_penalty
            for id, value in request.logit_bias.items():
                logits[id] += value
            written.append(int(logits.argmax()))
            if written[-1] == tokenizer.eos_id:
                break
        assert ids_of(engine.submit(request).pieces()) == written
        if request.presence_penalty == 40:
            assert len(set(written)) == len(written), "nothing twice"


def test_a_constraint_allows_some_tokens(serve):
    class Even:
        def mask(self, written):
            return torch.arange(420) % 4 == 2 * (len(written) % 2)

        def over(self, written):
            return False

    class Broken(Even):
        def mask(self, written):
            if len(written) == 3:
                raise ZeroDivisionError
            return torch.ones(420, dtype=torch.bool)

    class Narrow(Even):
        def mask(self, written):
            return torch.full((420,), len(written) < 2)

    class Short(Even):
        def over(self, written):
            return len(written) == 2

    engine = serve(network())
    good = [engine.submit(Request((9,), 12, temperature=t, seed=4, constraint=Even())) for t in (0, 2.0)]
    beside = engine.submit(Request((9,), 12, temperature=2.0, seed=4))
    bad = [engine.submit(Request((9,), 12, constraint=each())) for each in (Broken, Narrow, Short)]
    for each in good:
        assert [id % 4 for id in ids_of(each.pieces())] == [0, 2] * 6
    for each, count, finish in zip(bad, (3, 2, 2), ("error", "stuck", "stop"), strict=True):
        pieces = [*each.pieces()]
        assert (len(ids_of(pieces)), pieces[-1].finish) == (count, finish)
    again = engine.submit(Request((9,), 12, temperature=2.0, seed=4))
    assert ids_of(beside.pieces()) == ids_of(again.pieces()), "its draws are its own"


def test_an_error_ends_those_concerned_and_the_engine_goes_on(serve, tokenizer, monkeypatch, caplog):
    model = network()
    engine = serve(model, slots=3)
    step, reads = Slots.__call__, []

    def fails(self, tokens):
        if len(reads) == 3:
            reads.append(0)
            raise MemoryError("secret")
        reads.append(0)
        return step(self, tokens)

    monkeypatch.setattr(Slots, "__call__", fails)
    running = [engine.submit(Request((n,), 10, temperature=0)) for n in (30, 31)]
    assert [[*each.pieces()][-1].finish for each in running] == ["error", "error"]
    assert "MemoryError" in caplog.text and "secret" not in caplog.text
    request = Request((30,), 10, temperature=0)
    assert without_end(ids_of(engine.submit(request).pieces()), request, tokenizer) == alone(
        model, tokenizer, request
    )
    monkeypatch.setattr(Slots, "read", lambda *_, **__: 1 / 0)
    assert [*engine.submit(request).pieces()] == [("", (), "error")]
    monkeypatch.undo()
    with torch.no_grad():
        model.backbone.embeddings.tokens.weight[60] = float("nan")
    sick = engine.submit(Request((30, 60), 5))
    assert [*sick.pieces()][-1].finish == "error", "logits that are no numbers"
    monkeypatch.setattr(engine._batch, "round", lambda: 1 / 0)  # what nobody thought of
    assert [*engine.submit(request).pieces()][-1].finish == "error"
    assert engine._thread.is_alive()
    assert engine.stats().finished["error"] == 5


def test_stopping(serve):
    engine = serve(network(max_seq_len=4096), slots=2)
    short, waits = engine.submit(Request((5,), 20, temperature=0)), None
    long = [engine.submit(Request((5,), 4000, temperature=0)) for _ in range(2)]
    waits = engine.submit(Request((6,), 4000))
    stopping = threading.Thread(target=engine.stop, args=(0.3,))
    stopping.start()
    while True:
        try:
            engine.submit(Request((5,), 4000)).cancel()
        except Closed:
            break
    stopping.join(5)
    assert not stopping.is_alive() and not engine._thread.is_alive()
    assert [*short.pieces()][-1].finish == "length", "there was time for that"
    assert {[*each.pieces()][-1].finish for each in (*long, waits)} == {"cancelled"}
    never = serve(network(), run=False)
    left = never.submit(Request((5,), 5))
    never.stop(0)
    assert [*left.pieces()][-1].finish == "cancelled"


def test_streams_of_an_event_loop(serve, tokenizer):
    model = network()
    engine = serve(model)
    asked = [Request(ids, 15, temperature=0) for ids in prompts(6)]

    async def read(request: Request) -> list[int]:
        return ids_of([piece async for piece in engine.submit(request).stream()])

    async def leaves() -> None:
        stream = engine.submit(Request((5,), 90, temperature=0)).stream()
        async for _ in stream:
            break
        await stream.aclose()

    async def everything():
        return await asyncio.gather(*map(read, asked), leaves())

    found = asyncio.run(everything())[:-1]
    for request, ids in zip(asked, found, strict=True):
        assert without_end(ids, request, tokenizer) == alone(model, tokenizer, request)
    whole = asyncio.run(engine.submit(asked[0]).whole())
    assert without_end([token.id for token in whole.tokens], asked[0], tokenizer) == found[0]
    assert whole.finish in ("length", "stop") and whole.text == tokenizer.decode(found[0])


def test_an_event_loop_is_called_once_a_round(serve, monkeypatch):
    """And not at all for who waits for the whole; who is slow gets several pieces as one."""
    calls = []
    told = asyncio.base_events.BaseEventLoop.call_soon_threadsafe
    monkeypatch.setattr(
        asyncio.base_events.BaseEventLoop,
        "call_soon_threadsafe",
        lambda self, *args: calls.append(args) or told(self, *args),
    )

    async def slow(running) -> list:
        pieces = []
        async for piece in running.stream():
            pieces.append(piece)
            await asyncio.sleep(0.01)
        return pieces

    async def everything(engine, follow):
        running = [engine.submit(Request((5,), 40, temperature=0)) for _ in range(8)]
        tasks = [asyncio.create_task(follow(each)) for each in running]
        await asyncio.sleep(0)
        engine.start()
        return await asyncio.gather(*tasks)

    engine = serve(network(), slots=8, run=False)
    for pieces in asyncio.run(everything(engine, slow)):
        assert sum(len(piece.tokens) for piece in pieces) == 40 > len(pieces)
    assert 8 < len(calls) <= 8 + 40
    calls.clear()
    engine = serve(network(), slots=8, run=False)
    wholes = asyncio.run(everything(engine, lambda running: running.whole()))
    assert [len(piece.tokens) for piece in wholes] == [40] * 8 and len(calls) <= 2


def test_who_is_gone_with_their_event_loop(serve):
    engine = serve(network(max_seq_len=4096))
    left, loop = engine.submit(Request((5,), 4000, temperature=0)), asyncio.new_event_loop()
    stream = left.stream()
    loop.run_until_complete(anext(stream))
    loop.close()
    assert [*left.pieces()][-1].finish == "cancelled"

    async def given_up():
        task = asyncio.create_task(engine.submit(Request((5,), 4000, temperature=0)).whole())
        await asyncio.sleep(0.02)
        task.cancel()

    asyncio.run(given_up())
    engine.stop(5)
    assert engine.stats().finished == {"cancelled": 2}


def test_no_memory_is_lost(serve):
    """A long text's room goes once nobody needs it."""
    engine = serve(network(max_seq_len=4096), slots=4, prefix_cache_bytes=0)
    for ids, tokens in (((5,) * 3000, 1000), ((5,), 4)):
        running = engine.submit(Request(ids, tokens, temperature=0))
        next(pieces := running.pieces())
        pieces.close()
    assert [*engine.submit(Request((5,), 4)).pieces()][-1].finish
    assert engine._batch.slots.entries.shape[4] <= 64
