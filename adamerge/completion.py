"""Write completion of commands, options and methods for a shell."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, get_args

Shell = Literal["bash", "zsh", "fish"]

BASH = """\
# Completion of adamerge; in ~/.bashrc: eval "$(adamerge completion bash)"
_adamerge() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} found=""
  # bash cuts an option with "=" into three words
  if [ "$before" = "=" ]; then before=${{COMP_WORDS[COMP_CWORD-2]}}; fi
  if [ "$word" = "=" ]; then word=""; fi
  if [ "$COMP_CWORD" -eq 1 ]; then
    found="{commands}"
  else
    case $before in
{values}
      *)
        case $word,${{COMP_WORDS[1]}} in
{options}
        esac ;;
    esac
  fi
  COMPREPLY=($(compgen -W "$found" -- "$word"))
}}
complete -o default -F _adamerge adamerge
"""

ZSH = """\
# Completion of adamerge; in ~/.zshrc, after compinit: eval "$(adamerge completion zsh)"
_adamerge() {{
  if (( CURRENT == 2 )); then
    compadd -- {commands}
    return
  fi
  local before=$words[CURRENT-1]
  if [[ $PREFIX == --*=* ]]; then before=${{PREFIX%%=*}}; compset -P '*='; fi
  case $before in
{values}
  esac
  case $PREFIX,$words[2] in
{options}
    *) _files ;;
  esac
}}
compdef _adamerge adamerge
"""


def script(
    shell: Shell,
    descriptions: Mapping[str, str],
    options: Mapping[str, type],
    merges: Sequence[str],
    repeats: Sequence[str],
) -> str:
    """Write what a shell must evaluate to complete commands, options, methods and, everywhere else, files.

    Args:
        shell: Name of the shell.
        descriptions: Description per command.
        options: Dataclass of own options per command.
        merges: Commands that take a configuration, whose keys are options.
        repeats: Commands that take the keys of places alone.
    """
    from adamerge.runs.presets import PRESETS

    named = {command: _options(command, options[command], merges, repeats) for command in descriptions}
    values = {"--method": [*PRESETS], "completion": [*get_args(Shell)]}
    if shell == "fish":
        return "\n".join(_fish(descriptions, named, values)) + "\n"
    pick, frame = ('found="{}"', BASH) if shell == "bash" else ("compadd -- {}; return", ZSH)
    return frame.format(
        commands=" ".join(descriptions),
        values="\n".join(f"      {key}) {pick.format(' '.join(own))} ;;" for key, own in values.items()),
        options="\n".join(f"          -*,{key}) {pick.format(' '.join(own))} ;;" for key, own in named.items()),
    )


def _options(command: str, own: type, merges: Sequence[str], repeats: Sequence[str]) -> list[str]:
    """List the options of a command, and the keys of a configuration, or of its places, where it takes them."""
    from adamerge.command_line import named_options
    from adamerge.runs.key_names import key_names, place_names

    keys = ["config", *key_names()] if command in merges else [*place_names()] if command in repeats else []
    return [f"--{name}" for name in dict.fromkeys([*named_options(own), "help", *keys])]


def _fish(
    descriptions: Mapping[str, str], named: Mapping[str, Sequence[str]], values: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    yield "# Completion of adamerge; write it to ~/.config/fish/completions/adamerge.fish"
    for command, about in descriptions.items():
        quoted = about.replace("\\", "\\\\").replace("'", "\\'")
        yield f"complete -c adamerge -n __fish_use_subcommand -f -a {command} -d '{quoted}'"
    for command, own in named.items():
        seen = f"-n 'string match -q -- {command} (commandline -opc)[2]'"  # and not another word, as a run's name
        for option in own:
            given = f" -x -a '{' '.join(values[option])}'" if option in values else ""
            yield f"complete -c adamerge {seen} -l {option.removeprefix('--')}{given}"
        if command in values:
            yield f"complete -c adamerge {seen} -f -a '{' '.join(values[command])}'"
