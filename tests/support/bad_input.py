"""Bad input in kind: values of a configuration, and files that are something else than they should be."""

import gzip
import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml

KEYS = """
base_model models method dtype out_dtype rounding parameters task_vectors memory centre grouping chunks init
feasible objective regulariser data watch optimizer lr_scheduler trainer seed_everything run_dir allow_pickle
trust_remote_code written allow_code saved data.rows data.held_out data.batch_size data.micro_batch
data.max_length data.positions data.pseudo_answers watch.every watch.patience watch.monitor trainer.max_steps
trainer.max_time trainer.accelerator trainer.precision trainer.gradient_clip_val trainer.gradient_clip_algorithm
trainer.deterministic parameters.head parameters.base parameters.shared regulariser.strength models.0.model
models.0.task models.0.calibration models.0.loss_weight models.0.zero_shot models.0.parameters
models.0.parameters.weight models.0.calibration.path models.0.calibration.text models.0.calibration.rows
models.0.calibration.max_pixels models.0.calibration.max_bytes optimizer.lr optimizer.betas optimizer.class_path
optimizer.init_args objective.class_path objective.init_args feasible.class_path feasible.upper
models.0 models.1 models.0.evaluation models.0.adapter tokenizer beside max_shard_size export memory.limit
chunks.budget watch.guard data.pseudo_answers.max_new_tokens trainer.devices trainer.logger centre.rows
""".split()
"""Keys of a configuration; a number is the place of an item."""

VALUES = {
    "null": None, "negative": -1, "zero": 0, "share": 0.5, "true": True, "list": [], "numbers": [1], "nulls": [None],
    "mapping": {}, "keys": {"a": 1}, "text": "abc", "empty": "", "nan": float("nan"), "infinite": float("inf"),
    "2**64": 2**64, "1e308": 1e308, "1e20": 1e20, "long": "x" * 5000, "slash": "a/b", "root": "/", "control": "a\0b",
}  # fmt: skip
"""Values, each wrong for most keys."""


def put(config: dict, key: str, value: object) -> dict:
    """Set a value by its dotted key, through what is there already."""
    *path, last = [int(part) if part.isdecimal() else part for part in key.split(".")]
    at = config
    for part in path:
        inner = at[part] if isinstance(part, int) else at.get(part)
        if not isinstance(inner, dict | list):
            at[part] = inner = {"path": str(inner)} if part == "calibration" else {}
        at = inner
    at[last] = value
    return config


def _replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.unlink(missing_ok=True)
        make(path)

    return damage


def _bytes(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(change(path.read_bytes()))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": _bytes(lambda whole: b""),
    "gone": Path.unlink,
    "folder": _replaced(Path.mkdir),
    "pipe": _replaced(os.mkfifo),
    "device": _replaced(lambda path: path.symlink_to("/dev/null")),
    "link to nothing": _replaced(lambda path: path.symlink_to("nowhere")),
    "link to itself": _replaced(lambda path: path.symlink_to(path.name)),
    "half": _bytes(lambda whole: whole[: len(whole) // 2]),
    "end cut off": _bytes(lambda whole: whole[:-3]),
    "longer": _bytes(lambda whole: whole + b"xx"),
    "noise": _bytes(lambda whole: random.Random(0).randbytes(500)),
    "other encoding": _bytes(lambda whole: b"\xff\xfe{}"),
    "null": _bytes(lambda whole: b"null"),
    "list": _bytes(lambda whole: b"[]"),
    "number": _bytes(lambda whole: b"3"),
    "text": _bytes(lambda whole: b'"a"'),
    "no keys": _bytes(lambda whole: b"{}"),
    "70 levels": _bytes(lambda whole: b"[" * 70 + b"]" * 70),
    "nan": _bytes(lambda whole: b'{"a": NaN}'),
    "key twice": _bytes(lambda whole: b'{"a": 1, "a": 2}'),
    "long text": _bytes(lambda whole: json.dumps({"a": "x" * 100_000}).encode()),
}
"""What may have happened to a file, by name."""

OTHERS = [None, -1, 0, 0.5, 1e20, 2**70, True, "abc", "", [], [1], [None], {}, {"a": 1}, "x" * 3000, [[[]]]]
"""Values that may stand in the place of any other in a JSON file."""


def leaves(value: object, key: tuple = ()) -> Iterator[tuple]:
    """The path of every value in JSON, inner ones too; of a list the first three."""
    if key:
        yield key
    items = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for part, inner in items:
        yield from leaves(inner, (*key, part))


def edit_leaf(file: Path, key: tuple, value: object) -> None:
    """Put a value in the place of another in a JSON file."""
    whole = at = json.loads(file.read_text())
    for part in key[:-1]:
        at = at[part]
    at[key[-1]] = value
    file.write_text(json.dumps(whole))


TEXT = json.dumps({"text": "good bad film"}) + "\n"
ROWS = {
    "null": "null", "number": "3", "list": "[1]", "text": '"a"', "nan": '{"text": NaN}', "no text": '{"text": null}',
    "number for text": '{"text": 3}', "list for text": '{"text": ["a"]}', "keys for text": '{"text": {"a": 1}}',
    "empty text": '{"text": ""}', "other key": '{"txt": "a"}', "key twice": '{"text": "a", "text": "b"}',
    "half": '{"text": "a', "70 levels": '{"text": ' + "[" * 70 + "]" * 70 + "}", "half a pair": '{"text": "\\ud800"}',
    "escaped null": '{"text": "a\\u0000b"}', "null byte": '{"text": "a\0b"}',
    "long": '{"text": "' + "good " * 9000 + '"}',
    "long key": '{"' + "x" * 3000 + '": 1}', "digits": '{"text": "a", "label": ' + "9" * 5000 + "}",
    "mark": '\ufeff{"text": "a"}', "no key": '{"": "a"}', "special": '{"text": "[PAD] [SEP]"}',
}  # fmt: skip
"""Lines of JSON, each odd, among lines that are right."""

TABLES = {
    "ok.csv": "text,label\na,1\nb,2\n", "short.csv": "text,label\na\nb,2\n", "long.csv": "text,label\na,1,3\n",
    "twice.csv": "text,text\na,b\n", "headless.csv": "a\nb\n", "nameless.csv": ",\na,b\n", "quote.csv": 'text\n"a\nb\n',
    "semicolon.csv": "text;label\na;1\n", "header.csv": "text\n", "blank.csv": "\n\n", "array.json": "[{}]",
    "numbers.json": "[[1]]", "open.json": "[", "after.json": '[{"text": "a"}] x', "object.json": '{\n"text": 1}',
    "noise.parquet": "PAR1" + "x" * 50 + "PAR1", "empty.parquet": "", "noise.jsonl.gz": "abc", "noise.xlsx": "abc",
    "quote.tsv": 'text\tlabel\n"a\t1\n', "none.txt": "", "lines.txt": "\n\n", "noise.csv.bz2": "abc", "x.json.xz": "x",
}  # fmt: skip
"""Tables of other formats by name."""

NAMES = [
    "config.json", "CONFIG.JSON", "model.safetensors", "tokenizer.json", "mean", "..", "", "a/b", "a\nb", "a" * 300, 
    "\0", "\ud800", " a", "-x", ".hidden", "$x$", "$\\frac$", "é", "a:b", "~", "%s", "{x}", "model-base.safetensors",
]  # fmt: skip
"""Names of tasks; some can be folders beside the merged files."""

DOCUMENTS: dict[str, Callable[[str], str | bytes]] = {
    "two documents": lambda text: text + "---\nrun_dir: b\n", "directive": lambda text: "%YAML 1.2\n---\n" + text,
    "end mark": lambda text: text + "...\n", "JSON": lambda text: json.dumps(yaml.safe_load(text)),
    "carriage returns": lambda text: text.replace("\n", "\r").encode(), "mark": lambda text: "\ufeff" + text,
    "UTF-16": lambda text: text.encode("utf-16"), "Latin-1": lambda text: (text + "# é\n").encode("latin-1"),
    "tabs": lambda text: text.replace("  max_steps", "\tmax_steps"), "null byte": lambda text: text + "# \0\n",
    "comment": lambda text: "# nothing\n", "own alias": lambda text: text + "a: &a [*a]\n",
    "no anchor": lambda text: text.replace("run_dir: run", "run_dir: *no"),
    "tag": lambda text: text + "a: !!python/none\n",
    "bytes": lambda text: text.replace("run_dir: run", "run_dir: !!binary cnVu"),
    "set": lambda text: text.replace("run_dir: run", "run_dir: !!set {run}"),
    "day": lambda text: text.replace("run_dir: run", "run_dir: 2024-01-01"),
    "minutes": lambda text: text.replace("max_steps: 1", "max_steps: 1:30"),
    "octal": lambda text: text.replace("batch_size: 4", "batch_size: 010"),
    "braces": lambda text: text.replace("run_dir: run", "run_dir: {{ run }}"),
    "variable": lambda text: text.replace("run_dir: run", "run_dir: ${HOME}/run"),
    "hard space": lambda text: text.replace("run_dir:", "run_dir\xa0:"),
    "list as key": lambda text: text + "? [a]\n: 1\n",
    "on": lambda text: text + "on: 1\n", "merge": lambda text: text.replace("data:", "data:\n  <<: {held_out: 0}"),
    "names alone": lambda text: text[: text.index("models:")] + "models: [mood, topic]\n",
    "a mapping": lambda text: text[: text.index("models:")] + "models: {mood: {model: mood}}\n",
    "no time": lambda text: text + "  max_time: 00:00:00:00\n", "no machine": lambda text: text + "  num_nodes: 0\n",
    "huge batch": lambda text: text.replace("batch_size: 4", "batch_size: 1000000000"),
}  # fmt: skip
"""Changes of a configuration's text."""

LINE = TEXT.encode()
FOLDERS: dict[str, dict[str, bytes]] = {
    "empty": {}, "hidden": {".a.jsonl": LINE}, "two formats": {"a.jsonl": LINE, "b.csv": b"text\na\n"},
    "other columns": {"a.jsonl": LINE, "b.jsonl": b'{"txt": "a"}\n'}, "deep": {"a/b/c.jsonl": LINE},
    "splits": {"test.jsonl": LINE, "validation.jsonl": LINE}, "one split": {"test.jsonl": LINE},
    "no state": {"a.arrow": b""}, "a state": {"state.json": b"{}", "dataset_info.json": b"{}", "a.arrow": b""},
    "splits of nothing": {"dataset_dict.json": b'{"splits": ["train"]}'},
    "no splits": {"dataset_dict.json": b'{"splits": 3}'}, "script": {"d.py": b"print(1)", "a.jsonl": LINE},
    "a new line": {"a\nb.jsonl": LINE}, "picture": {"a.png": b"x"}, "zip": {"a.jsonl": b"PK\x03\x04"},
    "gzip twice": {"a.jsonl.gz": gzip.compress(gzip.compress(LINE))},
    "gzip joined": {"a.jsonl.gz": gzip.compress(LINE) * 2},
    "gzip cut": {"a.jsonl.gz": gzip.compress(LINE)[:-9]}, "gzip and more": {"a.jsonl.gz": gzip.compress(LINE) + b"ab"},
    "pointer": {"a.jsonl": b"version https://git-lfs.github.com/spec/v1\noid sha256:a\nsize 3\n"},
    "columns": {"a.json": b'{"text": ["a"]}'}, "page": {"a.json": b"<html>"},
    "comma": {"a.jsonl": LINE.strip() + b",\n"},
    "Python": {"a.jsonl": b"{'text': 'a'}\n"}, "other case": {"a.jsonl": b'{"Text": "a"}\n'},
    "UTF-16 without mark": {"a.jsonl": TEXT.encode("utf-16-le")}, "sep": {"a.csv": b"sep=,\ntext\na\n"},
}  # fmt: skip
"""Files of folders of rows."""
