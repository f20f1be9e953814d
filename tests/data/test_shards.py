"""Shards of one table: every file is read, and under the header of the first."""

import gzip

import pytest

from adamerge.data.settings import DataSource
from adamerge.data.tables import load_table
from adamerge.types import ConfigError


def load(path):
    return load_table(DataSource(str(path)), "mood", 0)


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".csv.gz"])
@pytest.mark.parametrize(
    ("shards", "words"),
    [
        (
            ["text,label\na,x\n", "b,y\nc,y\n"],
            r"2\.[ct]sv.*: expected the header of 1\..* found 'b', 'y', which may be",
        ),
        (["a,x\n", "text,label\nb,y\n"], r"2\.[ct]sv.*: expected the header of 1\..* found 'text', 'label'"),
        (["text,label\na,x\n", "b,y\n"], "found 'b', 'y'"),
        (["text,label\na,x\n", "text\nb\n"], "found 'text'"),
        (["text,label\na,x\n", "label,text\ny,b\n"], None),
        (["text,label\na,x\n", "", "text,label\n", "text,label\nb,y\n"], None),
    ],
)
def test_every_shard_has_the_header_of_the_first(tmp_path, shards, words, ending):
    for number, content in enumerate(shards, 1):
        content = content if ending != ".tsv" else content.replace(",", "\t")
        write(tmp_path / f"{number}{ending}", gzip.compress(content.encode()) if ending.endswith("gz") else content)
    if words is None:
        assert load(tmp_path).texts("text") == ["a", "b"]
    else:
        with pytest.raises(ConfigError, match=words):
            load(tmp_path)


def test_underscores_hide_no_shard(tmp_path):
    for name in ("__a", "_b", "c"):
        write(tmp_path / f"{name}.jsonl", f'"{name}"\n')
    assert sorted(load(tmp_path).texts("text")) == ["__a", "_b", "c"]
