"""What the engine wrote, in OpenAI's shapes: whole answers and the chunks of streams."""

import codecs
import dataclasses
import json
import math
from collections.abc import Iterable, Sequence

import tokenizers

from teleflm_jax.generate.request import Piece, Token
from teleflm_jax.serve.protocol import Call
from teleflm_jax.tokenizer.pieces import piece_bytes

LEAST_LOGPROB = -9999.0
"""JSON has no -inf."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What each id stands for."""

    tokenizer: tokenizers.Tokenizer
    pieces: Sequence[bytes]

    def bytes(self, index: int) -> bytes:
        """What a token adds to a text; nothing for a special one."""
        return self.pieces[index] if index < len(self.pieces) else b""

    def text(self, index: int) -> str:
        r"""A token as text; a special one's name; of a part of a character `bytes:\xe4\xbd`, so that no two tokens look alike."""
        found = self.bytes(index)
        try:
            return found.decode() or self.tokenizer.id_to_token(index) or f"<{index}>"
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in found)


def vocabulary(tokenizer: tokenizers.Tokenizer) -> Vocabulary:
    """Of a tokenizer."""
    return Vocabulary(tokenizer=tokenizer, pieces=piece_bytes(tokenizer))


@dataclasses.dataclass(kw_only=True)
class Choice:
    """One continuation as it grows."""

    call: Call
    index: int
    vocabulary: Vocabulary
    offset: int
    """Characters before the next token, those echoed included."""
    tokens: int = 0
    finish: str | None = None
    decoder: codecs.IncrementalDecoder = dataclasses.field(default_factory=lambda: _decoder())

    def add(self, piece: Piece) -> tuple[str, list[Token]]:
        """Count a piece; returns its text and the tokens that are told.

        Those of a chat are the message's, without the one that ended it; of a completion that one too, as harnesses count on it.
        """
        self.tokens += len(piece.tokens)
        self.finish = piece.finish
        request = self.call.requests[self.index]
        if request.logprobs is None:
            return piece.text, []
        return piece.text, [token for token in piece.tokens if not self.call.chat or token.id not in request.stop_ids]

    def logprobs(self, tokens: Sequence[Token], prompt: Sequence[Token] = ()) -> dict[str, object] | None:
        """Describe some tokens, after all before them and the prompt's; None if the call asks for no log-probabilities."""
        if self.call.requests[self.index].logprobs is None:
            return None
        if self.call.chat:
            return {"content": [self._told(token) for token in tokens], "refusal": None}
        echoed, offsets, decoder = 0, [], _decoder()
        for token in prompt:
            offsets.append(min(echoed, self.offset))  # some tokenizers change a text before they split it
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
        """The likeliest, and the token itself where it is none of them; of two tokens with one name the likelier."""
        if token.logprob is None:
            return None
        found: dict[str, float] = {}
        for index, value in (*token.alternatives, (token.id, token.logprob)):
            found.setdefault(self.vocabulary.text(index), _finite(value))
        return found

    def _told(self, token: Token) -> dict[str, object]:
        return self._one(token.id, token.logprob) | {"top_logprobs": [self._one(index, value) for index, value in token.alternatives]}

    def _one(self, index: int, value: float) -> dict[str, object]:
        return {"token": self.vocabulary.text(index), "logprob": _finite(value), "bytes": list(self.vocabulary.bytes(index)) or None}


def choices(call: Call, vocabulary: Vocabulary) -> list[Choice]:
    """Of a call, nothing written yet."""
    return [Choice(call=call, index=index, vocabulary=vocabulary, offset=len(echo)) for index, echo in enumerate(call.echo)]


def usage(call: Call, all_choices: Iterable[Choice]) -> dict[str, int]:
    """Counts of tokens; a prompt that is continued several times counts once."""
    new = sum(choice.tokens for choice in all_choices)
    return {"prompt_tokens": call.prompt_tokens, "completion_tokens": new, "total_tokens": call.prompt_tokens + new}


def whole(call: Call, head: dict[str, object], all_choices: Sequence[Choice], pieces: Sequence[Sequence[Piece]]) -> dict[str, object]:
    """An answer that is not streamed.

    Args:
        call: what was asked for.
        head: `id`, `created` and `model`.
        all_choices: nothing added yet.
        pieces: of each choice.
    """
    told = []
    for choice, echo, parts in zip(all_choices, call.echo, pieces, strict=True):
        added = [choice.add(part) for part in parts]
        text = "".join(text for text, _ in added)
        logprobs = choice.logprobs([token for _, tokens in added for token in tokens], parts[0].prompt)
        said = {"message": {"role": "assistant", "content": text, "refusal": None}} if call.chat else {"text": echo + text}
        told.append({"index": choice.index, **said, "logprobs": logprobs, "finish_reason": choice.finish})
    kind = "chat.completion" if call.chat else "text_completion"
    return head | {"object": kind, "choices": told, "usage": usage(call, all_choices)}


def opening(call: Call, head: dict[str, object], choice: Choice) -> dict[str, object] | None:
    """The chunk before a choice's first text: who speaks, or the prompt that is echoed; None where there is neither.

    A prompt whose log-probabilities are told comes with the first piece, which has them.
    """
    if call.chat:
        return _chunk(call, head, choice, {"delta": {"role": "assistant", "content": ""}}, None)
    echo = "" if call.requests[choice.index].tell_prompt else call.echo[choice.index]
    return _chunk(call, head, choice, {"text": echo}, None) if echo else None


def chunk(call: Call, head: dict[str, object], choice: Choice, piece: Piece) -> dict[str, object] | None:
    """A piece of a stream; None where there is nothing to tell."""
    text, tokens = choice.add(piece)
    if not (text or tokens or piece.finish):
        return None
    told = choice.logprobs(tokens, piece.prompt) if tokens or piece.prompt else None
    if piece.prompt:
        text = call.echo[choice.index] + text
    said = {"delta": {"content": text} if text or tokens else {}} if call.chat else {"text": text}
    return _chunk(call, head, choice, said, told)


def closing(call: Call, head: dict[str, object], all_choices: Sequence[Choice]) -> dict[str, object]:
    """The chunk with the counts of tokens."""
    kind = "chat.completion.chunk" if call.chat else "text_completion"
    return head | {"object": kind, "choices": [], "usage": usage(call, all_choices)}


def _chunk(call: Call, head: dict[str, object], choice: Choice, said: dict[str, object], logprobs: object) -> dict[str, object]:
    told = {"index": choice.index, **said, "logprobs": logprobs, "finish_reason": choice.finish}
    kind = "chat.completion.chunk" if call.chat else "text_completion"
    return head | {"object": kind, "choices": [told]} | ({"usage": None} if call.usage else {})


def to_json(value: object) -> bytes:
    """Encode a value as it goes over the wire; a lone surrogate, which no UTF-8 has, becomes a question mark."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(errors="replace")


def event(value: object) -> bytes:
    """One server-sent event."""
    return b"data: " + to_json(value) + b"\n\n"


DONE = b"data: [DONE]\n\n"


def _decoder() -> codecs.IncrementalDecoder:
    return codecs.getincrementaldecoder("utf-8")("replace")


def _finite(value: float) -> float:
    return value if math.isfinite(value) else LEAST_LOGPROB
