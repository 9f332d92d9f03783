"""`/v1/chat/completions`: the answer to the user's last message."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.requests import Request as Http

from lm.serving.engine import Request, TokenInfo
from lm.serving.errors import APIError
from lm.serving.house import Served
from lm.serving.schemas import ChatCompletion
from lm.serving.writing import LOWEST, Answer, finish, merged, wanted


async def answer(http: Http, served: Served, body: ChatCompletion) -> Any:
    """The response: an object, or a stream of events."""
    assert served.chat is not None
    messages = [message.said for message in body.messages]
    ids, _ = await asyncio.to_thread(served.chat.render, messages, True)
    room = served.context - len(ids)
    if room < 1:
        words = f"the chat has {len(ids)} tokens, the model sees {served.context} with the answer: shorten it"
        raise APIError(400, words, "messages", "context_length_exceeded")
    tokens = body.max_completion_tokens or body.max_tokens
    if tokens is None:
        tokens = room
    elif tokens < 1:
        raise APIError(400, "`max_tokens`: it must be at least 1", "max_tokens")
    top = body.top_logprobs if body.logprobs else None
    grammar, end = await served.structure.of(body), served.chat.end_id
    ends = () if end is None else (end,)
    requests = wanted(http, served, body, ids, tokens, grammar, logprobs=top, stop_ids=ends)
    return await _Chat(http, served, body, len(ids), requests).response()


class _Chat(Answer):
    """The assistant's message."""

    def __init__(
        self, http: Http, served: Served, body: ChatCompletion, read: int, requests: list[Request]
    ) -> None:
        super().__init__(http, served, body, "chatcmpl", read, requests)
        self.logprobs = body.logprobs

    def _logprobs(self, tokens: Sequence[TokenInfo]) -> Any:
        if not self.logprobs or not tokens:
            return None

        def entry(id: int, logprob: float) -> dict[str, Any]:
            data = list(self.token_bytes(id))
            return {"token": self.token_text(id), "logprob": max(logprob, LOWEST), "bytes": data}

        found = [
            {**entry(token.id, token.logprob), "top_logprobs": [entry(*pair) for pair in token.top]}
            for token in tokens
        ]
        return {"content": found, "refusal": None}

    async def whole(self) -> dict[str, Any]:
        found = await self.written()
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": one.text, "refusal": None},
                "finish_reason": one.finish,
                "logprobs": self._logprobs(one.tokens),
            }
            for index, one in enumerate(found)
        ]
        used = self.used(sum(len(one.tokens) for one in found))
        return {**self.head, "object": "chat.completion", "choices": choices, "usage": used}

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """The role, each piece as it comes, how it ended; and what was used, where that is wanted."""
        head = {**self.head, "object": "chat.completion.chunk", **({"usage": None} if self.told else {})}

        def chunk(index: int, delta: dict[str, Any], end: str | None = None, logprobs: Any = None) -> Any:
            choice = {"index": index, "delta": delta, "finish_reason": end, "logprobs": logprobs}
            return {**head, "choices": [choice]}

        for index in range(len(self.runs)):
            yield chunk(index, {"role": "assistant", "content": ""})
        written = 0
        async for index, piece in merged(self.runs):
            written += len(piece.tokens)
            end = finish(piece.finish)
            logprobs = self._logprobs(piece.tokens)
            if piece.text or logprobs:
                yield chunk(index, {"content": piece.text}, logprobs=logprobs)
            if end:
                yield chunk(index, {}, end)
        if self.told:
            yield {**head, "choices": [], "usage": self.used(written)}
