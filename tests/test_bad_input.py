"""Of all bad input `check` and `fit` say the same: both accept it, or both refuse it with one clear error."""

import copy
import json
import os
import random
import shutil
import struct
import warnings
import zlib

import pytest
import yaml
from support.bad_input import (
    DAMAGES,
    DOCUMENTS,
    FOLDERS,
    KEYS,
    NAMES,
    OTHERS,
    ROWS,
    TABLES,
    TEXT,
    VALUES,
    edit_leaf,
    leaves,
    put,
)
from support.families import save_text_family, save_tokenizer

from adamerge import cli
from adamerge.runs.read_config import merge_config, without_mistakes
from adamerge.runs.read_yaml import Document
from adamerge.types import LONGEST, ConfigError

TASKS = ("mood", "topic")
SETTINGS = {
    "base_model": "base",
    "models": [{"model": task, "calibration": f"{task}.jsonl"} for task in TASKS],
    "run_dir": "run",
    "method": "adamerging",
    "data": {"batch_size": 4, "rows": 8},
    "trainer": {"max_steps": 1, "accelerator": "cpu"},
}
LINES = 8
"""Of an answer at most."""

NAMED = ("config.json", "tokenizer.json", "model.safetensors")
OF_MODELS = [f"{place}/{name}" for place in ("mood", "base") for name in NAMED]
FILES = ["merge.yaml", "mood.jsonl", *OF_MODELS, "mood/tokenizer_config.json"]
BESIDE = ["chat_template.jinja", "generation_config.json", "special_tokens_map.json", "vocab.txt", "x.model", "x.py"]


def sampled(rows, one_in, request):
    """All rows where everything was asked for, else some that the seed chooses."""
    return rows if request.config.getoption("--full") else random.Random(17).sample(rows, len(rows) // one_in)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A base and two experts with their rows and tokenizers, and merge.yaml."""
    folder = save_text_family(tmp_path_factory.mktemp("pair"), TASKS)
    for task in TASKS:
        save_tokenizer(folder / task)
    (folder / "merge.yaml").write_text(yaml.safe_dump(SETTINGS, sort_keys=False))
    return folder


def listing(folder):
    """Everything in a folder, links to nothing too, and when it was last written."""
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}


class Reached(Exception):  # noqa: N818
    """Everything was read and accepted, and learning would begin."""


@pytest.fixture
def judge(pair, tmp_path, monkeypatch, request, main):
    """Spoils a copy of the pair, runs both commands, and compares what they say."""
    if not request.config.getoption("--full"):

        def reached(*given, **more):
            raise Reached

        monkeypatch.setattr("adamerge.runs.fit.learn_merge", reached)

    def run(command):
        try:
            code, said, complaint = main(command, "--config", "merge.yaml")
        except Reached:
            return 0, ""
        lines = (said + complaint).splitlines()
        return code, "\n".join(line for line in lines if line.startswith(("problem:", "error:")))

    def judged(name, spoil):
        folder = tmp_path / f"{zlib.crc32(name.encode())}"
        shutil.copytree(pair, folder)
        monkeypatch.chdir(folder)
        try:
            spoil(folder)
        except (OSError, KeyError, TypeError, IndexError):
            return None
        before = listing(folder)
        checked, problems = run("check")
        assert listing(folder) == before, name
        fitted, complaint = run("fit")
        assert checked == fitted, (name, problems, complaint)
        assert checked in (0, cli.BAD_INPUT), name
        if checked:
            assert listing(folder) == before, name
            assert problems, name
            assert complaint, name
            assert len(problems.splitlines()) <= LINES, (name, problems)
            assert max(map(len, problems.splitlines())) < 2 * LONGEST, name
        shutil.rmtree(folder)
        return checked

    return judged


def configured(change):
    """A spoiler that changes the configuration alone."""

    def spoil(folder):
        config = copy.deepcopy(SETTINGS)
        change(config)
        (folder / "merge.yaml").write_text(yaml.safe_dump(config, sort_keys=False))

    return spoil


def test_every_value_of_every_key_is_accepted_or_refused_by_its_name(request):
    table = [(key, name) for key in KEYS for name in VALUES]
    assert len(table) > 1000
    refused = 0
    for key, name in sampled(table, 10, request):
        config = put(copy.deepcopy(SETTINGS), key, VALUES[name])
        answer = _answer(config)
        without_mistakes([Document(config)])  # by which `check` goes on
        if answer:
            refused += 1
            assert len(answer.splitlines()) <= LINES, (key, name)
            assert max(map(len, answer.splitlines())) < 2 * LONGEST, (key, name)
            assert key.split(".")[-1] in answer or key.split(".")[0] in answer, (key, name, answer)
    assert refused


def test_check_and_fit_agree_on_values(judge, request):
    accepted = (
        [(key, name) for key in KEYS for name in VALUES if not _answer(_with(key, name))]
        if _full(request)
        else ACCEPTED
    )
    for key, name in accepted:
        judge(f"{key}={name}", configured(lambda config, key=key, name=name: put(config, key, VALUES[name])))


ACCEPTED = [  # of the right type, but of no use
    ("base_model", "control"),
    ("models.0.calibration", "root"),
    ("run_dir", "root"),
    ("run_dir", "control"),
]


def _with(key, name):
    return put(copy.deepcopy(SETTINGS), key, VALUES[name])


def _full(request):
    return request.config.getoption("--full")


def _answer(config):
    """Return the error that refuses a configuration before anything is read; empty if there is none."""
    try:
        with warnings.catch_warnings(action="ignore"):
            merge_config(config, lambda note: None)
    except ConfigError as error:
        return str(error)
    return ""


def test_check_and_fit_agree_on_damaged_files(judge, request):
    table = [(file, damage) for file in FILES for damage in DAMAGES]
    assert len(table) > 180
    refused = [judge(f"{file} {damage}", lambda folder, f=file, d=damage: DAMAGES[d](folder / f)) for file, damage in
               sampled(table, 20, request)]  # fmt: skip
    assert refused.count(cli.BAD_INPUT) > len(refused) / 2


def test_check_and_fit_agree_on_what_lies_beside_a_checkpoint(judge, request):
    def beside(folder, file, damage):
        (folder / file).touch()
        DAMAGES[damage](folder / file)

    table = [(f"mood/{name}", damage) for name in BESIDE for damage in DAMAGES]
    for file, damage in sampled(table, 40, request):
        judge(f"{file} {damage}", lambda folder, file=file, damage=damage: beside(folder, file, damage))


def test_check_and_fit_agree_on_values_in_files_of_others(judge, request, pair):
    table = [
        (file, key, value)
        for file in ("mood/config.json", "base/config.json", "mood/tokenizer_config.json")
        for key in leaves(json.loads((pair / file).read_text()))
        for value in OTHERS
    ]
    for file, key, value in sampled(table, 200, request):
        judge(f"{file} {key} {str(value)[:20]}", lambda folder, f=file, k=key, v=value: edit_leaf(folder / f, k, v))


def test_check_and_fit_agree_on_rows(judge, request):
    def odd(folder, line, alone):
        (folder / "mood.jsonl").write_text(line + "\n" if alone else TEXT * 5 + line + "\n" + TEXT * 5)

    table = [(name, alone) for name in ROWS for alone in (True, False)]
    for name, alone in sampled(table, 9, request):
        judge(f"{name} {alone}", lambda folder, line=ROWS[name], alone=alone: odd(folder, line, alone))


def test_check_and_fit_agree_on_tables(judge, request):
    def instead(folder, name):
        (folder / name).write_text(TABLES[name])
        configured(lambda config: put(config, "models.0.calibration", name))(folder)

    for name in sampled(list(TABLES), 8, request):
        judge(name, lambda folder, name=name: instead(folder, name))


def test_check_and_fit_agree_on_documents(judge, request):
    def changed(folder, name):
        found = DOCUMENTS[name]((folder / "merge.yaml").read_text())
        (folder / "merge.yaml").write_bytes(found if isinstance(found, bytes) else found.encode())

    for name in sampled(list(DOCUMENTS), 10, request):
        judge(name, lambda folder, name=name: changed(folder, name))


def test_check_and_fit_agree_on_folders(judge, request):
    def instead(folder, name):
        (folder / "rows").mkdir()
        for file, content in FOLDERS[name].items():
            (folder / "rows" / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / "rows" / file).write_bytes(content)
        configured(lambda config: put(config, "models.0.calibration", "rows"))(folder)

    for name in sampled(list(FOLDERS), 9, request):
        judge(name, lambda folder, name=name: instead(folder, name))


def test_check_and_fit_agree_on_names_of_tasks(judge, request):
    for name in sampled(NAMES, 6, request):
        judge(repr(name), configured(lambda config, name=name: put(config, "models.0.task", name)))


@pytest.mark.parametrize("place", ["mood.jsonl/run", "mood/run", "base", "pipe", "link", "x" * 300])
def test_a_place_where_nothing_can_be_written_is_refused_by_both(judge, place):
    def spoil(folder):
        os.mkfifo(folder / "pipe")
        (folder / "link").symlink_to("nowhere")
        configured(lambda config: put(config, "run_dir", place))(folder)

    assert judge(place, spoil) == cli.BAD_INPUT


def headers(change):
    """A spoiler that changes the header of an expert's safetensors file."""

    def spoil(folder):
        file = folder / "mood/model.safetensors"
        whole = file.read_bytes()
        (length,) = struct.unpack("<Q", whole[:8])
        header = json.loads(whole[8 : 8 + length])
        text = json.dumps(change(header) or header).encode()
        file.write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + length :])

    return spoil


def test_check_and_fit_agree_on_headers(judge, request):
    name = "bert.pooler.dense.bias"
    table = [(field, value) for field in ("dtype", "shape", "data_offsets") for value in [*OTHERS, [2**63], [-1], "I4"]]
    for field, value in sampled(table, 16, request):
        change = headers(lambda header, field=field, value=value: header[name].update({field: value}))
        assert judge(f"{field} {str(value)[:20]}", change) == cli.BAD_INPUT


def test_check_and_fit_agree_on_an_index(judge, request):
    shard = "model-00001-of-00001.safetensors"

    def indexed(folder, index):
        (folder / "mood/model.safetensors").rename(folder / "mood" / shard)
        (folder / "mood/model.safetensors.index.json").write_text(json.dumps(index))

    maps = [*OTHERS, {"a": None}, {"a": 3}, {"a": "/etc/passwd"}, {"a": "../topic/model.safetensors"}, {"a": "."}]
    for index in sampled([*OTHERS, *({"weight_map": one} for one in maps)], 12, request):
        assert judge(str(index)[:60], lambda folder, index=index: indexed(folder, index)) == cli.BAD_INPUT
