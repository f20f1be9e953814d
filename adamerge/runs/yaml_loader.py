"""YAML 1.1 with the numbers that people write, and errors that have a line."""

import re
from typing import Any, Final

import yaml
from typing_extensions import override


class _Values(yaml.constructor.SafeConstructor):
    """Values of YAML 1.1, each refused with its line."""

    @override
    def construct_object(self, node: yaml.Node, deep: bool = False) -> object:
        """Build a value; what Python refuses, a date without such a day for example, is an error with its line."""
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception as error:  # int(), datetime.date() and so on
            raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from error


class Loader(_Values, yaml.SafeLoader):
    """Loader of YAML 1.1, except that 1e-3 is a number, and that 010 (there 8) and 1:30 (there 90) are texts."""


_LIBYAML: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Fast(_Values, _LIBYAML):
    """The same by libyaml, in a tenth of the time; its words on what is no YAML are others."""


_NUMBERS: Final = {
    "tag:yaml.org,2002:int": r"[-+]?(0|[1-9][\d_]*|0b[01_]+|0x[\da-fA-F_]+)$",
    "tag:yaml.org,2002:float": r"([-+]?(\d[\d_]*(\.[\d_]*)?[eE][-+]?\d+|\d[\d_]*\.[\d_]*|\.\d[\d_]*([eE][-+]?\d+)?"
    r"|\.(inf|Inf|INF))|\.(nan|NaN|NAN))$",
}
"""How a number is written that nobody reads as another one."""

for _loader in (Loader, Fast):
    _loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in pairs if tag not in _NUMBERS]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for _tag, _pattern in _NUMBERS.items():
        _loader.add_implicit_resolver(_tag, re.compile(_pattern, re.ASCII), list("-+.0123456789"))
