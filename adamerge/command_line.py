"""Read the words after a command: the command's own options and, for a merge, layers of the configuration."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple, cast, get_origin

from adamerge.runs.build_settings import make
from adamerge.runs.config_errors import Findings
from adamerge.runs.read_yaml import Document, Place, read_value, read_yaml_file
from adamerge.runs.similar_words import most_similar
from adamerge.runs.type_hints import Option, alternatives, options
from adamerge.storage.file_names import at_home
from adamerge.types import ConfigError


class Word(NamedTuple):
    """An option with its value, or a positional word.

    Attributes:
        option: Name of the option without dashes; empty for a positional word.
        value: Value of the option, or the positional word; None if the value is missing.
    """

    option: str
    value: str | None


def read_arguments(
    own: type, arguments: Sequence[str], *, merges: bool, whole: bool = False
) -> tuple[object, list[Document]]:
    """Read a command's own options; for a merge also the configuration, from its files and all other options.

    Args:
        own: Dataclass of the command's own options; options without a default are positional.
        arguments: Words after the command.
        merges: Whether other options are keys of a configuration.
        whole: Whether these keys are a whole configuration, whose mistakes are listed with those of the options.

    Returns:
        The command's options, and the layers of the configuration: its files, and the options that override them.

    Raises:
        ConfigError: Lists every mistake, one per line.
    """
    known = options(own)
    alone = _alone(own, known)
    meant = partial(_meant, known=known, merges=merges)
    flags = [name for name, option in known.items() if bool in alternatives(option.hint)]
    several = [name for name in alone if get_origin(known[name].hint) is list]
    words = [
        _configuration(word) if whole else word for word in _words(arguments, lambda option: meant(option) in flags)
    ]
    words = [_with_value(word, known, merges) for word in _named(words, alone, several)]
    mine = [word for word in words if not merges or not word.option or meant(word.option)]
    findings, given = Findings(), dict[str, object]()
    for word in words:
        if word.value is None:
            findings.refuse((), f"--{word.option}: expected a value after it, found none.")
        elif not word.value:
            findings.refuse((), _empty(word.option, alone))
        elif not word.option:
            findings.refuse((), f"there is no option {word.value}.{_instead(word.value, whole=whole)}")
        elif word.option in several:
            given[word.option] = [*cast(list[str], given.get(word.option, [])), word.value]
        elif word in mine:
            given[word.option] = word.value if word.option in alone else read_value(word.value, f"--{word.option}")[0]
    findings.places = {(name,): Place(f"--{name}", str(value)) for name, value in given.items() if name not in alone}
    made = make(own, given, (), findings)
    layers, unread = list[Document](), list[str]()
    for word in sorted([word for word in words if word not in mine], key=lambda word: word.option != "config"):
        unread += _problems(partial(_add_layer, layers, word)) if word.value else ()
    problems = [*_problems(findings.raise_mistakes), *unread]
    if whole and not unread and (problems or not layers):
        problems += _problems(partial(_judge, layers, allow_code=given.get("allow_code") is True))
    if problems:
        raise ConfigError(*problems)
    return made, layers


def _instead(word: str, *, whole: bool) -> str:
    """Say how a word is written that is neither an option nor one that the command takes."""
    if word.startswith("-"):
        return " Options begin with two dashes; --help lists them."
    return " Write a file of another name as --config FILE, if it is the configuration." if whole else ""


def _problems(check: Callable[[], object]) -> tuple[str, ...]:
    """Return what a function refuses."""
    try:
        check()
    except ConfigError as error:
        return error.problems
    return ()


def _judge(layers: Sequence[Document], *, allow_code: bool) -> None:
    """Refuse the mistakes of a configuration; what it would be noted for is said where it is used."""
    from adamerge.runs.read_config import merge_layers

    if not layers:
        raise ConfigError(
            "missing: base_model, models. Name a configuration: adamerge fit merge.yaml; adamerge init writes one."
        )
    merge_layers(layers, lambda note: None, allow_code=allow_code)


def named_options(own: type) -> list[str]:
    """List the options of a command that are written with two dashes."""
    known = options(own)
    return [name for name in known if name not in _alone(own, known)]


def _alone(own: type, known: Mapping[str, Option]) -> list[str]:
    """List the options of a command that are positional."""
    return [*getattr(own, "POSITIONAL", [name for name, option in known.items() if option.required])]


def _empty(option: str, alone: Sequence[str]) -> str:
    """Refuse a value without a character, as an unset variable of a shell gives: YAML would read it as null."""
    if not option or option in alone:
        return f"{option or 'options'}: expected a word, found an empty one."
    return f"--{option}: expected a value, found an empty one. Write one (null for none), or leave the option out."


def _words(arguments: Sequence[str], is_flag: Callable[[str], bool]) -> Iterator[Word]:
    left = list(arguments)
    while left:
        word = left.pop(0)
        option, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            yield Word("", word)
        elif equals or is_flag(option):
            told = bool(left) and left[0] in ("true", "false")
            yield Word(option, value if equals else left.pop(0) if told else "true")
        else:
            yield Word(option, left.pop(0) if left and not left[0].startswith("--") else None)


def _configuration(word: Word) -> Word:
    """Read a file of YAML without an option as the configuration: `adamerge fit merge.yaml`."""
    is_file = not word.option and (word.value or "").endswith((".yaml", ".yml"))
    return word._replace(option="config") if is_file else word


def _with_value(word: Word, known: Mapping[str, Option], merges: bool) -> Word:
    """Give an option without a value one, if there is no such option, so that the error names the unknown option."""
    if word.value is not None or word.option in known:
        return word
    return word if merges and word.option.partition(".")[0] in _keys() else word._replace(value="null")


def _meant(option: str, known: Mapping[str, Option], merges: bool) -> str | None:
    """Return the command's own option that is meant, perhaps in a wrong spelling; None if a key is nearer."""
    if option in known:
        return option
    keys = _keys() if merges else []
    near = None if option.partition(".")[0] in keys else most_similar(option, [*known, *keys])
    return near if near in known else None


def _keys() -> list[str]:
    """List the keys of a configuration, and the option that names its file."""
    from adamerge.runs.config import MergeConfig

    return ["config", *options(MergeConfig)]


def _named(words: Sequence[Word], alone: Sequence[str], several: Sequence[str]) -> Iterator[Word]:
    """Assign the names of positional options to positional words, in order; some take all that follow."""
    names = list(alone)
    for word in words:
        name = "" if word.option or not names else names[0] if names[0] in several else names.pop(0)
        yield word if word.option else word._replace(option=name)


def _add_layer(layers: list[Document], word: Word) -> None:
    option, value = word.option, word.value or ""
    if option == "config":
        layers.append(read_yaml_file(at_home(value)))
        return
    content, place = read_value(value, f"--{option}")
    layers.append(Document({option: content}, {(option,): place}))
