"""Files of others, damaged anywhere: each is read or refused by its name, with the way on, and never a traceback."""

import copy
import json
import struct
import warnings

import pytest
import torch
from hypothesis import Phase, given, settings
from safetensors.torch import save_file
from support.mutations import as_json, changed, changes, tried
from test_bad_input import LINES, SETTINGS

from adamerge.data.settings import DataSource
from adamerge.data.tables import load_table
from adamerge.experts.weight_files import open_weights
from adamerge.runs.read_config import merge_config
from adamerge.storage.weights import MappedFiles
from adamerge.types import LONGEST, ConfigError

ROWS = [{"text": f"good film {i}", "label": i % 2, "more": [1, {"a": None}]} for i in range(6)]
FILES = {
    "rows.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
    "rows.json": json.dumps(ROWS),
    "rows.csv": 'text,label\n"good, film",0\n"bad ""film""",1\nplain,2\n',
    "rows.tsv": "text\tlabel\ngood film\t0\nbad\t1\nplain\t2\n",
}
WHOLE = {
    "base_model": "base", "models": [{"model": "a", "calibration": {"path": "a.jsonl", "rows": 8}, "loss_weight": 2.0}],
    "method": "adamerging", "data": {"rows": 8, "held_out": 0.25, "positions": "all"}, "trainer": {"max_steps": 3},
    "optimizer": {"class_path": "Adam", "init_args": {"lr": 0.01, "betas": [0.9, 0.99]}}, "chunks": {"budget": 2},
    "feasible": {"class_path": "Box", "init_args": {"lower": 0.0, "upper": 1.0}}, "memory": {"limit": "8GB"},
    "objective": {"class_path": "Entropy"}, "watch": {"every": 2, "patience": 3}, "regulariser": {"strength": 0.1},
}  # fmt: skip
"""A configuration with a value of every kind."""


@pytest.fixture
def examples(request):
    return 8000 if request.config.getoption("--full") else 40


def test_configurations(examples):
    refused = []

    @settings(max_examples=2 * examples, derandomize=True, database=None, deadline=None, phases=[Phase.generate])
    @given(change=changes(documents=True).filter(lambda change: change[0] in ("replace", "remove", "add")))
    def property_of_configurations(change):
        config = changed(WHOLE if change[3] else SETTINGS, *change[:3])
        before = copy.deepcopy(config)
        try:
            with warnings.catch_warnings(action="ignore"):
                merge_config(config, lambda note: None)
        except ConfigError as error:
            refused.append((change, str(error).splitlines()))
        assert repr(config) == repr(before)

    property_of_configurations()
    assert len(refused) > examples / 2
    for change, lines in refused:
        assert len(lines) <= LINES, change
        assert all(": " in line and len(line) < 2 * LONGEST for line in lines), (change, lines)


@pytest.mark.parametrize("name", FILES)
def test_rows(tmp_path, name, examples):
    file = tmp_path / name
    file.write_text(FILES[name])

    def read(path):
        table = load_table(DataSource(str(path)), "mood", 0)
        table.require(["text"])
        table.texts("text")

    _, refused = tried(file, read, examples, advice=r"^mood: ")
    assert refused


@pytest.fixture
def tensors(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"a.weight": torch.zeros(3, 4), "a.bias": torch.zeros(3), "half": torch.zeros(2).half()}, file)
    return file


def read_all(path):
    mapped = MappedFiles([path])
    for name in mapped.headers:
        assert mapped[name].shape == mapped.shape(name)


def test_bytes_of_safetensors(tensors, examples):
    assert all(tried(tensors, read_all, examples))


def test_values_in_the_header_of_safetensors(tensors, examples):
    whole = tensors.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    header = tensors.with_suffix(".json")
    header.write_bytes(whole[8 : 8 + length])

    def read(path):
        if path.is_file():
            text = path.read_bytes()
            tensors.write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + length :])
            read_all(tensors)

    assert all(tried(header, read, examples, "json", names=tensors.name))


def test_an_index(tensors, examples):
    shard = tensors.rename(tensors.with_name("model-00001-of-00001.safetensors"))
    index = tensors.with_name("model.safetensors.index.json")
    index.write_bytes(
        as_json({"metadata": {"total_size": 3}, "weight_map": dict.fromkeys(["a.weight", "half"], shard.name)})
    )

    def read(path):
        del path
        open_weights("mood", tensors.parent, allow_pickle=False)

    assert all(tried(index, read, examples, "json", names="model"))
