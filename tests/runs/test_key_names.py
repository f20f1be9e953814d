"""Names of keys that are read from the source are those of the classes."""

from dataclasses import fields

from adamerge.runs.config import MergeConfig
from adamerge.runs.key_names import UNSAVED, key_names
from adamerge.runs.type_hints import alternatives, options, section


def test_the_source_has_the_keys_of_the_classes():
    inner = {name: section(alternatives(option.hint)) for name, option in options(MergeConfig).items()}
    sections = {name: [f"{name}.{own.name}" for own in fields(one)] if one else [] for name, one in inner.items()}
    assert [*key_names()] == [key for name in inner if name not in UNSAVED for key in (name, *sections[name])]
