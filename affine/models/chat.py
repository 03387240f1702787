"""Chat messages to tokens, piece by piece, so that an episode is one growing token sequence.

ChatML as Qwen writes it, rendered here and not by a chat template: Qwen3's stock template drops earlier
`<think>` blocks, so with it turn k is not a prefix of turn k+1. Here every piece is encoded on its own and
appended; what the model sampled is never decoded and encoded again.

    opening      <|im_start|>user\\n…<|im_end|>\\n … <|im_start|>assistant\\n
    reply        …<|im_end|>                       (the agent's tokens: they carry the loss)
    observation  \\n<|im_start|>user\\n…<|im_end|>\\n<|im_start|>assistant\\n
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from affine.types import Message, Trajectory, Turn

END_OF_TURN = "<|im_end|>"
START_OF_TURN = "<|im_start|>"


class Tokenizer(Protocol):
    """What is needed of a transformers tokenizer."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...
    def decode(self, token_ids: Sequence[int]) -> str: ...
    def convert_tokens_to_ids(self, tokens: str) -> int: ...


@dataclass(frozen=True, slots=True)
class Tokens:
    """A rendered episode: `ids` and, of the same length, `action_mask` (1 where the agent wrote
    with intent)."""

    ids: list[int]
    action_mask: list[int]


class Renderer:
    """Renders messages with one tokenizer.

    Raises ValueError for a tokenizer that lacks the ChatML tokens. Text that holds them literally cannot
    forge a turn: they are broken up before encoding.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        # The same encoder without transformers' wrapper, which takes several times as long as the encoding.
        self._fast = getattr(tokenizer, "backend_tokenizer", None)
        pieces = [tokenizer.encode(mark, add_special_tokens=False) for mark in (START_OF_TURN, END_OF_TURN)]
        if any(len(piece) != 1 for piece in pieces):
            raise ValueError(f"the tokenizer has no single tokens {START_OF_TURN} and {END_OF_TURN}")
        self.end_of_turn = pieces[1][0]

    def _encode(self, text: str) -> list[int]:
        if self._fast is not None:
            return list(self._fast.encode(text, add_special_tokens=False).ids)
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def opening(self, messages: Sequence[Message]) -> list[int]:
        """The episode's first tokens, up to where the agent's first reply begins."""
        turns = [f"{START_OF_TURN}{m.role}\n{_plain(m.content)}{END_OF_TURN}\n" for m in messages]
        return self._encode("".join(turns) + f"{START_OF_TURN}assistant\n")

    def observation(self, text: str) -> list[int]:
        """From the end of a reply (its end-of-turn token included) to where the next begins."""
        return self._encode(f"\n{START_OF_TURN}user\n{_plain(text)}{END_OF_TURN}\n{START_OF_TURN}assistant\n")

    def reply(self, text: str) -> list[int]:
        """A reply that no model sampled (an expert's), with its end-of-turn token."""
        return [*self._encode(_plain(text)), self.end_of_turn]

    def text(self, token_ids: Sequence[int]) -> str:
        """What the agent said: sampled tokens without the end-of-turn token."""
        ids = [i for i in token_ids if i != self.end_of_turn]
        return self.tokenizer.decode(ids)

    def sampled(self, turn: Turn) -> bool:
        """Whether the turn's tokens are this tokenizer's for its text; another model's may not be."""
        ids = turn.token_ids
        try:
            return bool(ids) and self.text(ids) == turn.text
        except (OverflowError, IndexError):
            return False

    def trajectory(self, trajectory: Trajectory) -> Tokens:
        """The whole episode. Turns that carry sampled tokens keep them, others are encoded; turns played
        without insight are masked like observations."""
        ids = self.opening(trajectory.opening)
        mask = [0] * len(ids)
        for k, turn in enumerate(trajectory.turns):
            reply = list(turn.token_ids) or self.reply(turn.text)
            ids += reply
            mask += [int(turn.expert)] * len(reply)
            if k + 1 < len(trajectory.turns):
                if reply[-1] != self.end_of_turn:  # cut at the reply limit: the engine closed the turn
                    ids.append(self.end_of_turn)
                    mask.append(0)
                between = self.observation(turn.observation)
                ids += between
                mask += [0] * len(between)
        return Tokens(ids, mask)


def _plain(text: str) -> str:
    """Break up special tokens written out in text, and replace what is not encodable as UTF-8."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text.replace("<|", "< |") if "<|" in text else text
