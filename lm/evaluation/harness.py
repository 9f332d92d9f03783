"""A model of lm as lm-evaluation-harness knows models: log-likelihoods and texts, by our own forward pass."""

import json
import secrets
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from tqdm import tqdm

from lm.errors import UserError
from lm.inference.batch import complete
from lm.inference.generate import Sampling
from lm.inference.scoring import Scored, pseudo_score, score, windows
from lm.tokenizer import Tokenizer

if TYPE_CHECKING:
    from lm.predictor import Predictor

Pair = tuple[list[int], list[int]]  # ids of the context, of what counts

_WRITTEN = 64  # texts at once, where nothing else is said


class HarnessModel(TemplateLM):
    """What the harness asks a model, answered by one that `lm.load` has opened.

    A text is read as the model was trained: behind the tokens that its tokenizer puts first. A GPT is asked
    for each token behind those before it; a BERT for each behind a mask, with all others around it, which
    gives pseudo-log-likelihoods (arXiv:1910.14659).

    Args:
        predictor: the model.
        batch_size: rows of a batch; None: by their lengths.

    Attributes:
        cut: by task, texts of which the model could not see the beginning.
    """

    def __init__(self, predictor: "Predictor", batch_size: int | None = None) -> None:
        super().__init__()
        self.predictor, self.batch_size = predictor, batch_size
        self.network = predictor.writer("eval") if predictor.config.causal else predictor.writer("fill")
        self.words: Tokenizer = predictor.tokenizer
        self.max_length: int = predictor.config.max_seq_len
        # What a BERT's frame puts around a text comes when it is asked.
        self.before = self.words.opening if predictor.config.causal else []
        self.cut: Counter[str] = Counter()
        self._asking: list[str] = []  # the task of each request that is being answered
        self._nonce = f"\ue000{secrets.token_hex(8)}"  # before a chat: no data can hold it
        if not predictor.config.causal and self.words.mask_id is None:
            raise UserError(f"{predictor.model.source} has no mask: it can't be asked for single tokens")

    # What the harness calls.

    @property
    def eot_token_id(self) -> int:
        return self.words.padding_id if self.words.eos_id is None else self.words.eos_id

    @property
    def prefix_token_id(self) -> int:
        return self.words.start_id

    @property
    def tokenizer_name(self) -> str:
        return self.words.fingerprint

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        if string.startswith(self._nonce):
            chat, _end, rest = string.removeprefix(self._nonce).partition(self._nonce)
            return self._chat_ids(json.loads(chat)) + self.words.encode(rest)
        return (self.before if add_special_tokens is not False else []) + self.words.encode(string)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        self._asking = [request.task_name or "" for request in requests]
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        requests = [(text, *self._begun(context, counted)) for text, context, counted in requests]
        parts = [list(self._parts(context, counted)) for _, context, counted in requests]
        for name, (_, context, counted) in zip(self._asking, requests, strict=False):
            self.cut[name] += len(context) + len(counted) > self._room
        scored = self._score([part for each in parts for part in each], disable_tqdm)
        found = []
        for each in parts:
            own = [next(scored) for _ in each]
            found.append((sum(one.total for one in own), all(bool(one.likeliest.all()) for one in own)))
        return found

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        texts = (self.words.encode(request.args[0]) for request in requests)
        parts = [
            windows(ids, self.prefix_token_id, self._room - self.predictor.config.causal) for ids in texts
        ]
        self._asking = []  # a window is not cut: it counts from where the one before it ends
        pairs = [(None, ids[:start], ids[start:]) for each in parts for ids, start in each]
        scored = iter(self._loglikelihood_tokens(pairs, disable_tqdm))
        return [sum(next(scored)[0] for _ in each) for each in parts]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        if not self.predictor.config.causal:
            raise UserError(f"{self.predictor.model.source} is a BERT: it can't write what the task asks for")
        found: list[str | None] = [None] * len(requests)
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(number)
        with _Bar(len(requests), "writing", disable_tqdm) as done:
            for key, numbers in groups.items():
                how: dict[str, Any] = {**normalize_gen_kwargs(json.loads(key), 256)}
                for at in range(0, len(numbers), _WRITTEN):
                    own = numbers[at : at + _WRITTEN]
                    texts = self._write([requests[n] for n in own], how, own[0])
                    for number, text in zip(own, texts, strict=True):
                        found[number] = text
                    done(len(own))
        return [text or "" for text in found]

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return getattr(self._format, "template", "its own") if chat_template else None

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A chat as a text of which `tok_encode` makes the ids: control tokens are put in there, and never
        parsed out of text."""
        return f"{self._nonce}{json.dumps([chat_history, add_generation_prompt])}{self._nonce}"

    # How it is answered.

    @property
    def _format(self) -> Any:
        return self.predictor.dialogue().chat

    def _chat_ids(self, chat: tuple[list[dict[str, str]], bool]) -> list[int]:
        history, answer_next = chat
        messages = [(each["role"], each["content"]) for each in history]
        return list(self._format.render(messages, answer_next)[0])

    def _begun(self, context: list[int], counted: list[int]) -> Pair:
        """A pair with something before what counts, and something that counts: a continuation that melts
        into its context's last token is that token."""
        if not counted and context:
            context, counted = context[:-1], context[-1:]
        if not self.predictor.config.causal:  # its frame begins a text
            return (context[1:] if context == [self.prefix_token_id] else context), counted
        return context or [self.prefix_token_id], counted

    @property
    def _room(self) -> int:
        """Tokens of a text that fit: a GPT need not read the last one."""
        causal = self.predictor.config.causal
        return self.max_length + 1 if causal else self.max_length - self.words.frame_size(pair=False)

    def _parts(self, context: list[int], counted: list[int]) -> Iterator[tuple[list[int], int, int]]:
        """A pair as (ids, first and end of what counts) that the model sees whole: most often one; of more
        than it sees, the beginning is cut off, and what counts comes in several."""
        whole, start, room = [*context, *counted], len(context), self._room
        while start < len(whole):
            end = len(whole) if len(whole) - start < room else start + room - 1
            first = max(end - room, 0)
            yield whole[first:end], start - first, end - first
            start = end

    def _score(self, parts: Sequence[tuple[list[int], int, int]], quiet: bool) -> Iterator[Scored]:
        if self.predictor.config.causal:
            with _Bar(len(parts), "scoring", quiet) as done:
                texts = [(ids[:end], start) for ids, start, end in parts]
                return iter(score(self.network, texts, self.batch_size, done))
        before = len(self.words.opening)
        framed = [
            (self.words.frame(ids)[0], range(start + before, end + before)) for ids, start, end in parts
        ]
        with _Bar(sum(len(at) for _, at in framed), "scoring", quiet) as done:
            mask_id = self.words.mask_id or 0  # there is one: see __init__
            return iter(pseudo_score(self.network, framed, mask_id, self.batch_size, done))

    def _write(self, requests: list[Any], how: dict[str, Any], seed: int) -> list[str]:
        """Texts behind prompts, up to the first of the strings that end them."""
        room = self.max_length - how["max_gen_toks"]
        if room < 1:
            what = f"this task writes {how['max_gen_toks']} tokens, the model sees {self.max_length}"
            raise UserError(f"{what}: it is for a model that sees more")
        prompts = [request.args[0] for request in requests]
        ids = [self.tok_encode(prompt) for prompt in prompts]
        self.cut.update(
            request.task_name for request, row in zip(requests, ids, strict=True) if len(row) > room
        )
        ends = [self.words.eos_id, *([self._format.end_id] if prompts[0].startswith(self._nonce) else [])]
        sampling = Sampling(
            temperature=how.get("temperature") or 1.0 if how.get("do_sample") else 0,
            top_k=how.get("top_k", 0),
            top_p=how.get("top_p", 1.0),
        )
        rows = complete(
            self.network,
            [row[-room:] for row in ids],
            how["max_gen_toks"],
            ends,
            sampling,
            seed,
            self.words.vocab_size,
            self.batch_size or _WRITTEN,
        )
        stops = [stop for stop in how.get("until", []) if stop]
        texts = [self.words.decode(row) for row in rows]
        return [text[: min((at for s in stops if (at := text.find(s)) >= 0), default=None)] for text in texts]


class _Bar:
    """tqdm's bar, in a terminal alone; its method to advance."""

    def __init__(self, total: int, what: str, quiet: bool) -> None:
        # The harness's own output is caught; this is for the person.
        out = sys.__stderr__
        self._bar = tqdm(total=total, desc=what, file=out, disable=True if quiet else None, leave=False)

    def __enter__(self) -> Callable[[int], object]:
        return self._bar.update

    def __exit__(self, *_: object) -> None:
        self._bar.close()
