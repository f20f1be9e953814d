"""Bad input in kind: values of a configuration, and files that are something else than they should be."""

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

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
