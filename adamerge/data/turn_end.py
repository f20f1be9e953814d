"""Where a chat template ends an assistant's turn: after the last message, and where another one follows."""

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import NamedTuple, TypeAlias, cast

from transformers import PreTrainedTokenizerBase

from adamerge.data.bounded import rendered
from adamerge.data.tokens import special_tokens

_STAND_INS = ("qzxjkv", "wybdfg")
"""Stand for contents; they share no letter, so what renderings with either have in common is the template's own."""

_Chat: TypeAlias = Sequence[Mapping[str, object]]


class AnswerEnd(NamedTuple):
    """What ends an answer.

    Attributes:
        tokens: Each of these tokens.
        text: This text, if a chat template ends a turn without a special token; else empty.
    """

    tokens: tuple[int, ...] = ()
    text: str = ""


class TurnEnd(NamedTuple):
    """What a chat template renders after an assistant's turn.

    Attributes:
        last: What ends the last message.
        inner: What ends a turn that another one follows; None if the template does not render such a chat.
        changed: Whether the template changes contents, such as to upper case.
        lost: Whether it leaves out the assistant's content, so that the end of a turn cannot be found.
    """

    last: AnswerEnd = AnswerEnd()
    inner: AnswerEnd | None = None
    changed: bool = False
    lost: bool = False

    def end(self, stops: Sequence[int] = ()) -> AnswerEnd:
        """Return what ends an answer: templates may leave out the end of the last message, or have one there alone.

        Args:
            stops: Tokens at which generation stops. If the end of the last message is one of them, an end of turns that
                others follow is none of answers: the template of a model that reasons has it within them.
        """
        stopped = self.last.tokens and set(self.last.tokens) <= set(stops)
        return self.last if stopped or self.inner in (None, AnswerEnd()) else self.inner


def turn_end(tokenizer: PreTrainedTokenizerBase, chat: _Chat) -> TurnEnd:
    """Find what ends an assistant's turn: its first special or added token, or else its text.

    Args:
        tokenizer: Has a chat template.
        chat: Messages that the template accepts, the last not the assistant's.
    """
    last = [_rendered(tokenizer, [*chat, _message("assistant", answer)]) for answer in _STAND_INS]
    one, two = last
    if one is None or two is None:  # the rows' own error is raised when they are rendered
        return TurnEnd()
    if one == two:
        return TurnEnd(changed=True, lost=True)
    changed = _STAND_INS[0] not in one
    at_the_end = _end(tokenizer, _common_end(one, two), ())
    followed = [_up_to_the_next(tokenizer, [*chat, _message("assistant", answer)]) for answer in _STAND_INS]
    if None in followed or followed[0] == followed[1]:
        return TurnEnd(at_the_end, None, changed)
    between = _common_end(*cast(list[str], followed))
    starts, marks = _starts(tokenizer, one), _marks(tokenizer)
    if not any(index in marks for index in _ids(tokenizer, between)):
        between = between.removesuffix(_common_end(between, _up_to_the_next(tokenizer, chat[:-1]) or ""))
    return TurnEnd(at_the_end, _end(tokenizer, between, starts), changed)


def _message(role: str, content: str) -> dict[str, object]:
    return {"role": role, "content": content}


def _rendered(tokenizer: PreTrainedTokenizerBase, chat: _Chat) -> str | None:
    try:
        return rendered(tokenizer, chat)
    except Exception:  # templates are programs of others
        return None


def _up_to_the_next(tokenizer: PreTrainedTokenizerBase, chat: _Chat) -> str | None:
    """Render a chat that the user continues, up to the content of the user's turn."""
    one, two = (_rendered(tokenizer, [*chat, _message("user", content)]) for content in _STAND_INS)
    return None if one is None or two is None or one == two else _common_start(one, two)


def _common_start(one: str, two: str) -> str:
    return one[: next((place for place, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), len(two))]


def _common_end(one: str, two: str) -> str:
    return _common_start(one[::-1], two[::-1])[::-1]


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return cast(list[int], tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []


def _marks(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Return the tokens that may end a turn, by id: special ones, and others that were added, but for white space."""
    added = {index: str(token) for index, token in tokenizer.added_tokens_decoder.items() if str(token).strip()}
    added.pop(cast(int, tokenizer.unk_token_id), None)
    return {**added, **special_tokens(tokenizer)}


def _starts(tokenizer: PreTrainedTokenizerBase, rendered: str) -> list[int]:
    """List the special tokens with which a chat begins, which begin a text or a turn and end none."""
    special, end = _marks(tokenizer), tokenizer.eos_token_id
    leading = takewhile(lambda index: index in special, _ids(tokenizer, rendered))
    return [index for index in leading if index != end]


def _end(tokenizer: PreTrainedTokenizerBase, text: str, starts: Sequence[int]) -> AnswerEnd:
    """Take the end of a turn from what follows its content, up to the beginning of the next one."""
    special = _marks(tokenizer)
    first = next((index for index in _ids(tokenizer, text) if index in special), None)
    if first is not None and first not in starts:
        return AnswerEnd((first,))
    return AnswerEnd((), (text if first is None else text.partition(special[first])[0]).strip())
