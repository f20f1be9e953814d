"""An export that is killed or interrupted goes on where it was, byte for byte as if it had not been."""

import errno
import os
import shutil
import signal

import pytest
import torch
from support.exports import export_pool, export_struck
from support.families import build, save_family
from support.mixtures import mixture, near
from support.processes import Strike

from adamerge.runs.exported_files import hash_export
from adamerge.storage.write_safetensors import SafetensorsWriter

WHOLE, SHARDS = 10**9, 8000
WRITE, NOTE = "adamerge.storage.write_safetensors.SafetensorsWriter.write", "adamerge.storage.resumable.Begun.note"
WENT_ON = "the export went on from one that was interrupted: "


def written_by(monkeypatch, *how):
    """Export, and count what is written into files of weights."""
    names, write = [], SafetensorsWriter.write

    def counting(writer, name, tensor):
        names.append(name)
        write(writer, name, tensor)

    with monkeypatch.context() as patch:
        patch.setattr(SafetensorsWriter, "write", counting)
        return export_pool(*how), len(names)


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    """A pool with heads and one of mixtures, and what their uninterrupted exports wrote, in one file and in shards."""
    folder = tmp_path_factory.mktemp("pools")
    own = {name: build("BertForSequenceClassification", "bert", seed) for seed, name in enumerate("ab", 1)}
    save_family(folder / "bert", build("BertModel", "bert", 0), own)
    base = mixture("MixtralForCausalLM", 0)
    save_family(folder / "mixture", base, {"a": near(base, 1), "b": near(base, 2)})
    whole = pytest.MonkeyPatch()
    exported = {
        (kind, size): written_by(whole, folder / kind, str(size), size)
        for kind, size in (("bert", WHOLE), ("bert", SHARDS), ("mixture", SHARDS))
    }
    return folder, exported


@pytest.fixture
def bert(pools):
    """The pool with heads; what tests export is removed, the sources stay as they are."""
    yield pools[0] / "bert"
    for left in [*pools[0].glob("*/out"), *pools[0].glob("*/.*.partial")]:
        shutil.rmtree(left)


KILLED = [
    ("bert", WHOLE, Strike(WRITE, call=9)),  # the bytes before it are noted, its own are not
    ("bert", WHOLE, Strike(NOTE, call=9)),  # its bytes are there, its note is not
    ("bert", SHARDS, Strike(NOTE, call=20)),  # in a later shard
    ("bert", SHARDS, Strike("adamerge.results.write_checkpoint.os.link", call=2)),  # all is merged, some is linked
    ("bert", WHOLE, Strike("adamerge.results.export.compare_with_files")),
    ("bert", WHOLE, Strike("adamerge.storage.atomic_files.os.fsync", call=8)),
    ("mixture", SHARDS, Strike(WRITE, call=20)),  # between the tensors that one parameter is written as
]


@pytest.mark.usefixtures("bert")
@pytest.mark.parametrize(("kind", "size", "strike"), KILLED)
def test_a_killed_export_goes_on_byte_for_byte(pools, kind, size, strike, monkeypatch):
    folder, (whole, count) = pools[0] / kind, pools[1][kind, size]
    assert export_struck(strike, folder, "out", size) == -signal.SIGKILL
    assert not (folder / "out").exists()
    assert len(list(folder.glob(".out.*.partial"))) == 1
    done, written = written_by(monkeypatch, folder, "out", size)
    assert written < count
    assert hash_export(done.folder) == hash_export(whole.folder)
    assert torch.equal(done.surviving.written, whole.surviving.written)
    assert torch.equal(done.surviving.merged, whole.surviving.merged)
    assert done.surviving.dtypes == whole.surviving.dtypes == (torch.bfloat16,)
    assert (done.bytes, done.notes[1:]) == (whole.bytes, whole.notes)
    assert done.notes[0].startswith(WENT_ON)
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize(
    ("error", "stays"),
    [
        (KeyboardInterrupt(), True),  # SIGTERM and SIGHUP too, in commands
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), True),
        (RuntimeError("the disk wrote something else"), False),
    ],
)
def test_what_an_interrupted_export_leaves_is_said(bert, monkeypatch, error, stays):
    def fails(*given):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("adamerge.results.export.compare_with_files", fails)
        with pytest.raises(type(error)) as raised:
            export_pool(bert, "out", WHOLE)
    left = list(bert.glob(".out.*.partial"))
    said = [f"What was written is in {place}: the same export goes on from there." for place in left]
    assert (len(left), said) == (stays, getattr(raised.value, "__notes__", []))
    done = export_pool(bert, "out", WHOLE)
    assert any(line.startswith(WENT_ON) for line in done.notes) is stays


def interrupted(bert, size=WHOLE):
    """An export that was killed after all was merged; returns its folder."""
    assert export_struck(Strike("adamerge.results.export.compare_with_files"), bert, "out", size) == -signal.SIGKILL
    (place,) = bert.glob(".out.*.partial")
    return place


def test_damaged_bytes_and_notes_are_made_again(bert, pools, monkeypatch):
    whole, count = pools[1]["bert", WHOLE]
    place = interrupted(bert)
    file, journal = place / "files/model.safetensors", place / "journal"
    content = bytearray(file.read_bytes())
    content[3] ^= 1  # the header
    content[-3] ^= 1  # the last tensor
    file.write_bytes(content + b"more")
    lines = journal.read_bytes().splitlines()
    lines[5] = lines[5].replace(b"0", b"1", 1)  # another number
    journal.write_bytes(b"\n".join([*lines, lines[7][:-20]]))  # a line that is cut off
    (place / "files/config.json").write_text("{}")
    (place / "files/foreign.bin").write_text("not of this export")
    done, written = written_by(monkeypatch, bert, "out", WHOLE)
    assert done.notes[0].endswith("; damaged tensors of it that are written again: 1")
    tasks = 2 * (len(lines) - 2 + 2)  # their copies with heads
    assert written == 2 + tasks < count
    assert hash_export(done.folder) == hash_export(whole.folder)


def test_links_in_a_leftover_are_not_written_through(bert, tmp_path):
    place = interrupted(bert, SHARDS)
    for number, link in enumerate((os.link, os.symlink), 1):
        (tmp_path / str(number)).write_text("mine")
        shard = sorted((place / "files").glob("*-of-*"))[number]
        shard.unlink()
        link(tmp_path / str(number), shard)
    export_pool(bert, "out", SHARDS)
    assert [(tmp_path / name).read_text() for name in "12"] == ["mine", "mine"]


@pytest.mark.parametrize(
    ("how", "other"), [({"coefficient": 0.4}, "coefficients"), ({"shard_bytes": SHARDS}, "settings"), ({}, "sources")]
)
def test_what_is_of_another_export_is_removed_and_said(bert, how, other):
    interrupted(bert)
    if not how:
        os.utime(bert / "a/model.safetensors")
    done = export_pool(bert, "out", **{"shard_bytes": WHOLE, **how})
    assert done.notes[0] == (
        f"note: an export to the same folder, which was interrupted, was of other {other}: what it had written was "
        "removed"
    )
    assert not list(bert.glob(".*"))
