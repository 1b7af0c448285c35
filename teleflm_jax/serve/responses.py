"""Responses in OpenAI's format: complete ones and the chunks of streams."""

import codecs
import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence

import tokenizers

from teleflm_jax.generate.request import TextDelta, Token
from teleflm_jax.serve.protocol import ParsedBody
from teleflm_jax.tokenizer.pieces import piece_bytes

MIN_LOGPROB = -9999.0
"""Stands for -inf, which JSON lacks."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Bytes and text of each id."""

    tokenizer: tokenizers.Tokenizer
    pieces: Sequence[bytes]

    def bytes(self, index: int) -> bytes:
        """Return the bytes that a token adds to a text; none for a special token."""
        return self.pieces[index] if index < len(self.pieces) else b""

    def text(self, index: int) -> str:
        r"""Return a token as text: a special token's name, or `bytes:\xe4\xbd` for part of a character, so that tokens differ."""
        content = self.bytes(index)
        try:
            return content.decode() or self.tokenizer.id_to_token(index) or f"<{index}>"
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)


def vocabulary(tokenizer: tokenizers.Tokenizer) -> Vocabulary:
    """Return the vocabulary of a tokenizer."""
    return Vocabulary(tokenizer=tokenizer, pieces=piece_bytes(tokenizer))


@dataclasses.dataclass(kw_only=True)
class Choice:
    """A continuation as it grows."""

    body: ParsedBody
    index: int
    vocabulary: Vocabulary
    offset: int
    """Characters before the next token, including echoed ones."""
    tokens: int = 0
    finish_reason: str | None = None
    decoder: codecs.IncrementalDecoder = dataclasses.field(default_factory=lambda: _decoder())

    def add(self, piece: TextDelta) -> tuple[str, list[Token]]:
        """Count a piece, and return its text and the tokens to report.

        A chat reports the message's tokens without the one that ended it; a completion reports that one too, which harnesses rely on.
        """
        self.tokens += len(piece.tokens)
        self.finish_reason = piece.finish_reason
        request = self.body.requests[self.index]
        if request.logprobs is None:
            return piece.text, []
        return piece.text, [token for token in piece.tokens if not self.body.chat or token.id not in request.stop_ids]

    def logprobs(self, tokens: Sequence[Token], prompt: Sequence[Token] = ()) -> dict[str, object] | None:
        """Return the log-probabilities of the next tokens, after the prompt's; None if the request does not ask for them."""
        if self.body.requests[self.index].logprobs is None:
            return None
        if self.body.chat:
            return {"content": [self._with_alternatives(token) for token in tokens], "refusal": None}
        echoed, offsets, decoder = 0, [], _decoder()
        for token in prompt:
            offsets.append(min(echoed, self.offset))  # some tokenizers normalise a text before they split it
            echoed += len(decoder.decode(self.vocabulary.bytes(token.id)))
        for token in tokens:
            offsets.append(self.offset)
            self.offset += len(self.decoder.decode(self.vocabulary.bytes(token.id)))
        every = [*prompt, *tokens]
        return {
            "tokens": [self.vocabulary.text(token.id) for token in every],
            "token_logprobs": [None if token.logprob is None else _finite(token.logprob) for token in every],
            "top_logprobs": [self._top(token) for token in every],
            "text_offset": offsets,
        }

    def _top(self, token: Token) -> dict[str, float] | None:
        """Return the likeliest tokens, and the token itself if it is not among them; of two tokens with the same text, the likelier."""
        if token.logprob is None:
            return None
        top: dict[str, float] = {}
        for index, value in (*token.alternatives, (token.id, token.logprob)):
            top.setdefault(self.vocabulary.text(index), _finite(value))
        return top

    def _with_alternatives(self, token: Token) -> dict[str, object]:
        assert token.logprob is not None  # a choice without log-probabilities describes no tokens
        return self._token(token.id, token.logprob) | {"top_logprobs": [self._token(index, value) for index, value in token.alternatives]}

    def _token(self, index: int, value: float) -> dict[str, object]:
        return {"token": self.vocabulary.text(index), "logprob": _finite(value), "bytes": list(self.vocabulary.bytes(index)) or None}


def choices(body: ParsedBody, vocabulary: Vocabulary) -> list[Choice]:
    """Return the choices of a request, still empty."""
    return [Choice(body=body, index=index, vocabulary=vocabulary, offset=len(echo)) for index, echo in enumerate(body.echo)]


def usage(body: ParsedBody, all_choices: Iterable[Choice]) -> dict[str, int]:
    """Return the token counts; a prompt with several continuations counts once."""
    new = sum(choice.tokens for choice in all_choices)
    return {"prompt_tokens": body.prompt_tokens, "completion_tokens": new, "total_tokens": body.prompt_tokens + new}


def complete(
    body: ParsedBody, head: dict[str, object], all_choices: Sequence[Choice], pieces: Sequence[Sequence[TextDelta]]
) -> dict[str, object]:
    """Return a response that is not streamed.

    Args:
        body: the request's body.
        head: `id`, `created` and `model`.
        all_choices: still empty.
        pieces: pieces of each choice.
    """
    described = []
    for choice, echo, parts in zip(all_choices, body.echo, pieces, strict=True):
        added = [choice.add(part) for part in parts]
        text = "".join(text for text, _ in added)
        logprobs = choice.logprobs([token for _, tokens in added for token in tokens], parts[0].prompt)
        content = {"message": {"role": "assistant", "content": text, "refusal": None}} if body.chat else {"text": echo + text}
        described.append({"index": choice.index, **content, "logprobs": logprobs, "finish_reason": choice.finish_reason})
    kind = "chat.completion" if body.chat else "text_completion"
    return head | {"object": kind, "choices": described, "usage": usage(body, all_choices)}


def first_chunk(body: ParsedBody, head: dict[str, object], choice: Choice) -> dict[str, object] | None:
    """Return the chunk before a choice's first text: the role, or the echoed prompt; None if there is neither.

    A prompt with log-probabilities is sent with the first piece, which contains them.
    """
    if body.chat:
        return _chunk(body, head, choice, {"delta": {"role": "assistant", "content": ""}}, None)
    echo = "" if body.requests[choice.index].prompt_logprobs else body.echo[choice.index]
    return _chunk(body, head, choice, {"text": echo}, None) if echo else None


def chunk(body: ParsedBody, head: dict[str, object], choice: Choice, piece: TextDelta) -> dict[str, object] | None:
    """Return the chunk for a piece; None if there is nothing to send."""
    text, tokens = choice.add(piece)
    if not (text or tokens or piece.finish_reason):
        return None
    described = choice.logprobs(tokens, piece.prompt) if tokens or piece.prompt else None
    if piece.prompt:
        text = body.echo[choice.index] + text
    content: dict[str, object] = {"delta": {"content": text} if text or tokens else {}} if body.chat else {"text": text}
    return _chunk(body, head, choice, content, described)


def usage_chunk(body: ParsedBody, head: dict[str, object], all_choices: Sequence[Choice]) -> dict[str, object]:
    """Return the last chunk, with the token counts."""
    kind = "chat.completion.chunk" if body.chat else "text_completion"
    return head | {"object": kind, "choices": [], "usage": usage(body, all_choices)}


def _chunk(body: ParsedBody, head: dict[str, object], choice: Choice, content: Mapping[str, object], logprobs: object) -> dict[str, object]:
    described = {"index": choice.index, **content, "logprobs": logprobs, "finish_reason": choice.finish_reason}
    kind = "chat.completion.chunk" if body.chat else "text_completion"
    return head | {"object": kind, "choices": [described]} | ({"usage": None} if body.usage else {})


def to_json(value: object) -> bytes:
    """Encode a value for sending; a lone surrogate, which UTF-8 cannot encode, becomes a question mark."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(errors="replace")


def event(value: object) -> bytes:
    """Return a server-sent event."""
    return b"data: " + to_json(value) + b"\n\n"


DONE = b"data: [DONE]\n\n"


def _decoder() -> codecs.IncrementalDecoder:
    return codecs.getincrementaldecoder("utf-8")("replace")


def _finite(value: float) -> float:
    return value if math.isfinite(value) else MIN_LOGPROB
