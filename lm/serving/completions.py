"""`/v1/completions`: what comes after a prompt."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.requests import Request as Http

from lm.inference.generate import prompt_ids
from lm.serving.engine import Request, TokenInfo
from lm.serving.errors import APIError
from lm.serving.house import Served
from lm.serving.schemas import Completion
from lm.serving.writing import LOWEST, Answer, finish, merged, wanted

TOKENS = 16  # unless it is said, as OpenAI has it


async def complete(http: Http, served: Served, body: Completion) -> Any:
    """The response: an object, or a stream of events."""
    prompts = await asyncio.to_thread(_ids, served, body.prompt)
    tokens = TOKENS if body.max_tokens is None else body.max_tokens
    if tokens == 0 and not body.echo:
        raise APIError(400, "`max_tokens`: 0 is for `echo` alone", "max_tokens")
    grammar = await served.structure.of(body)
    more: dict[str, Any] = {"logprobs": body.logprobs, "echo": body.echo and body.logprobs is not None}
    more |= {"tokens": max(tokens, 1), "grammar": grammar}
    requests = [request for ids in prompts for request in wanted(http, served, body, ids, **more)]
    return await _Completion(http, served, body, prompts, requests).response()


def _ids(served: Served, prompt: Any) -> list[list[int]]:
    """The tokens of each prompt."""
    several = [prompt] if not prompt or isinstance(prompt, str) or isinstance(prompt[0], int) else prompt
    if not all(several):
        raise APIError(400, "`prompt` is empty: give a text, or the ids of tokens", "prompt")
    tokenizer = served.model.tokenizer
    return [prompt_ids(tokenizer, each) if isinstance(each, str) else each for each in several]


class _Completion(Answer):
    """What stands behind the prompts. The choices of the first prompt are the first `n`."""

    def __init__(
        self, http: Http, served: Served, body: Completion, prompts: list[list[int]], requests: list[Request]
    ) -> None:
        super().__init__(http, served, body, "cmpl", sum(map(len, prompts)), requests)
        self.body, self.prompts = body, prompts
        self.head["object"] = "text_completion"
        self.nothing = body.max_tokens == 0  # is to be written: the engine's one token is left out

    def _choice(self, index: int, text: str, end: str | None, logprobs: Any) -> dict[str, Any]:
        return {"index": index, "text": text, "finish_reason": end, "logprobs": logprobs}

    def _prompt(self, index: int) -> str:
        """What stands before the answer in choice `index`."""
        if not self.body.echo:
            return ""
        number, prompt = index // self.n, self.body.prompt
        if isinstance(prompt, str):
            return prompt
        if isinstance(text := prompt[number], str):
            return text
        return self.served.model.tokenizer.decode(self.prompts[number])

    def _logprobs(self, index: int, tokens: Sequence[TokenInfo], at: int, first: bool) -> Any:
        """OpenAI's four lists: of the tokens, and before them of the prompt's where these are wanted."""
        if self.body.logprobs is None:
            return None
        given: list[TokenInfo | int] = list(tokens)
        if first and self.body.echo:  # nothing stands before the first token: it has no probability
            ids = self.prompts[index // self.n]
            known = self.runs[index].prompt_logprobs
            given = [*ids[:1], *known[len(known) - len(ids) + 1 :], *given]
        found: dict[str, list[Any]] = {
            name: [] for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")
        }
        for token in given:
            id = token if isinstance(token, int) else token.id
            found["tokens"].append(self.token_text(id))
            found["text_offset"].append(at)
            at += len(self.token_bytes(id).decode(errors="ignore"))
            if isinstance(token, int):
                found["token_logprobs"].append(None)
                found["top_logprobs"].append(None)
                continue
            found["token_logprobs"].append(max(token.logprob, LOWEST))
            top: dict[str, float] = {}
            for id, value in (*token.top, (token.id, token.logprob)):  # itself, too, as OpenAI has it
                top.setdefault(self.token_text(id), max(value, LOWEST))
            found["top_logprobs"].append(top)
        return found

    async def whole(self) -> dict[str, Any]:
        found = await self.written()
        choices, written = [], 0
        for index, one in enumerate(found):
            text, tokens, end = ("", (), "length") if self.nothing else one
            prompt = self._prompt(index)
            logprobs = self._logprobs(index, tokens, 0, True)
            choices.append(self._choice(index, prompt + text, end, logprobs))
            written += len(tokens)
        return {**self.head, "choices": choices, "usage": self.used(written)}

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """Each piece as it comes, and at the end what was used, where that is wanted."""
        head = {**self.head, **({"usage": None} if self.told else {})}
        places: dict[int, int] = {}  # characters so far, by choice
        written = 0
        async for index, piece in merged(self.runs):
            first = index not in places
            text, tokens = ("", ()) if self.nothing else piece[:2]
            prompt = self._prompt(index) if first else ""
            end = finish(piece.finish)
            logprobs = self._logprobs(index, tokens, places.get(index, 0), first)
            places[index] = places.get(index, 0) + len(prompt + text)
            written += len(tokens)
            if prompt or text or (logprobs and tokens) or end:
                yield {**head, "choices": [self._choice(index, prompt + text, end, logprobs)]}
        if self.told:
            yield {**head, "choices": [], "usage": self.used(written)}
