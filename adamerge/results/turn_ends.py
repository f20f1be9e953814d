"""Tokens with which the chat templates of an export end a turn, and at which generation does not stop yet."""

from collections.abc import Iterator, Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from adamerge.data.bounded import rendered
from adamerge.data.processor_files import DEFAULT
from adamerge.data.turn_end import AnswerEnd, turn_end
from adamerge.types import Fact


def turn_ends(
    tokenizer: PreTrainedTokenizerBase, templates: Mapping[str, str], stops: Sequence[int]
) -> tuple[list[int], list[str]]:
    """List the tokens that end a turn and have to be named, so that generation stops there.

    The end of a named template is one of them unless another template has it elsewhere than at the end of a turn:
    generation with that one would stop too early.

    Args:
        tokenizer: Tokenizer of the templates; its own template is replaced.
        templates: Chat templates by name.
        stops: Tokens at which generation stops.

    Returns:
        The tokens, and notes for the user.
    """
    ends = {name: _end(tokenizer, text, stops) for name, text in templates.items()}
    notes: list[str] = []
    missing: dict[int, list[str]] = {}
    for name, end in ends.items():
        if isinstance(end, str):
            notes.append(f"{_words(name)} renders no question and answer ({end}), so where a turn ends is not checked.")
        elif end.text:
            notes.append(
                f"{_words(name)} ends a turn with the text {end.text!r}, which generation_config.json cannot name: "
                "pass it to the reader as a stop string."
            )
        for token in end.tokens if isinstance(end, AnswerEnd) else ():
            if token in stops:
                continue
            inside = [] if name == DEFAULT else list(_elsewhere(tokenizer, token, templates, ends))
            if inside:
                notes.append(_not_named(tokenizer, name, token, inside))
            else:
                missing.setdefault(token, []).append(name)
    notes += [
        Fact(
            f"generation stops at {_text(tokenizer, token)!r} too, where {' and '.join(map(_words, names))} "
            f"{'ends' if len(names) == 1 else 'end'} a turn (eos_token_id)."
        )
        for token, names in missing.items()
    ]
    return list(missing), notes


def _words(name: str) -> str:
    return "the chat template" if name == DEFAULT else f"the chat template {name!r}"


def _text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    return str(tokenizer.convert_ids_to_tokens(token))


def _not_named(tokenizer: PreTrainedTokenizerBase, name: str, token: int, inside: Sequence[str]) -> str:
    text = _text(tokenizer, token)
    return (
        f"{_words(name)} ends a turn with {text!r}, at which generation does not stop, because "
        f"{' and '.join(map(_words, inside))} may have it inside a turn. Where you use {name!r}, add {token} to "
        "eos_token_id of the call."
    )


def _elsewhere(
    tokenizer: PreTrainedTokenizerBase,
    token: int,
    templates: Mapping[str, str],
    ends: Mapping[str, AnswerEnd | str],
) -> Iterator[str]:
    """List the templates that name a token with which they do not end a turn."""
    text = _text(tokenizer, token)
    for name, end in ends.items():
        if not (isinstance(end, AnswerEnd) and token in end.tokens) and text in templates[name]:
            yield name


def _end(tokenizer: PreTrainedTokenizerBase, template: str, stops: Sequence[int]) -> AnswerEnd | str:
    """Return what ends a turn by a template, or why it renders no question and answer."""
    tokenizer.chat_template = template
    end = turn_end(tokenizer, [{"role": "user", "content": "?"}]).end(stops)
    error = "" if end.tokens or end.text else _not_rendered(tokenizer)
    return error or end


def _not_rendered(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return why a chat template does not render one question and one answer; empty if it does."""
    chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    try:
        rendered(tokenizer, chat)
    except Exception as error:  # templates raise what they like, and jinja2 its own
        return f"{type(error).__name__}: {error!s:.200}"
    return ""
