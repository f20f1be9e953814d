"""Merge what the models of all tasks have in common into files, going on from an export that was interrupted."""

import platform
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from threading import Lock
from typing import cast

import torch
from torch import Tensor

from adamerge.experts.conversion import Written, written
from adamerge.merging.merged_model import MergedModel
from adamerge.merging.read_ahead import ReadAhead
from adamerge.results.backbone import exact_parameter
from adamerge.results.checkpoint_files import METADATA, Files, file_name, size_of, write_index
from adamerge.results.surviving import SurvivingShare
from adamerge.storage.atomic_files import file_in_place
from adamerge.storage.buffers import Buffers
from adamerge.storage.digest import Checksum, bytes_of, checksum_of, digest_of, digest_of_json, identity_of
from adamerge.storage.in_two_threads import in_two_threads
from adamerge.storage.kept import Key
from adamerge.storage.resumable import Begun
from adamerge.storage.weights import Header, headers_of
from adamerge.storage.write_safetensors import SafetensorsWriter, write_safetensors
from adamerge.types import Coefficients


@dataclass(frozen=True)
class Layout:
    """Which file of the merged checkpoint holds what.

    Attributes:
        units: What is written together, by file.
        files: Headers of the backbone's tensors, by file.
        rest: What the base alone has.
        joined: Whether the only file holds that too.
        most: Largest size of one file.
    """

    units: Mapping[str, Sequence[Written]]
    files: Files
    rest: Mapping[str, Tensor]
    joined: bool
    most: int


@dataclass(frozen=True)
class Backbone:
    """What the models of all tasks have in common, as it was written into the merged checkpoint.

    Attributes:
        files: Its tensors by file.
        alone: Whether these files hold nothing else.
        most: Largest size of one file.
        checksums: Of its tensors by name in the module, as they were merged.
        notes: What was kept of an export that was interrupted, line by line.
    """

    files: Files
    alone: bool
    most: int
    checksums: Mapping[str, Checksum]
    notes: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """Size of its tensors."""
        return sum(map(size_of, self.files.values()))


def layout_of(model: MergedModel, rest: Mapping[str, Tensor], shard_bytes: int) -> Layout:
    """Divide what is written among files: one, where that is allowed.

    Args:
        model: Experts, and the dtypes on disk.
        rest: What the base alone has.
        shard_bytes: Maximum size of one file.
    """
    units = written(next(iter(model.experts.tasks.values())).own_module, model.experts.backbone)
    headers = {unit: _headers_of(unit, model) for unit in units}
    shards = _divide(headers, shard_bytes)
    size = sum(map(size_of, headers.values())) + size_of(headers_of(rest))
    joined = len(shards) == 1 and size <= shard_bytes
    count = len(shards) + (bool(rest) and not joined)
    by_file = {file_name(number, count): shard for number, shard in enumerate(shards, 1)}
    files = {file: {n: h for unit in shard for n, h in headers[unit].items()} for file, shard in by_file.items()}
    return Layout(by_file, files, rest, joined, shard_bytes)


def key_of(model: MergedModel, coefficients: Coefficients, layout: Layout) -> Key:
    """Hash everything that decides the bytes of the backbone's files; of its sources count size, time and inode.

    Args:
        model: Experts, task vectors and rounding.
        coefficients: (G, K).
        layout: The files.
    """
    rounding, rows = model.rounding, model.grouping.rows
    headers = [[*headers_of(layout.rest).items()], {file: [*own.items()] for file, own in layout.files.items()}]
    settings = [rounding.mode, rounding.seed, layout.joined, repr(sorted(rounding.dtypes.items())), repr(headers)]
    packages = {name: version(name) for name in ("adamerge", "torch", "transformers")}
    processor = [platform.machine(), torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()]
    return {
        "coefficients": digest_of({"": coefficients, **{f"rows of {name}": own for name, own in rows.items()}}),
        "sources": digest_of_json([model.vectors.digest(identity_of), model.experts.base.digest(identity_of)]),
        "settings": digest_of_json(settings),
        "versions of packages": digest_of_json(packages),
        "processors or threads": digest_of_json(processor),
    }


def write_backbone(
    model: MergedModel, coefficients: Coefficients, layout: Layout, begun: Begun, surviving: SurvivingShare
) -> Backbone:
    """Write the merged checkpoint's weights; two tensors at a time are merged and then written, and in memory.

    Args:
        model: Experts and task vectors.
        coefficients: (G, K).
        layout: Which file holds what.
        begun: Where to, and what an interrupted export of the same finished there.
        surviving: Gets what rounding left.
    """
    begun.remove_all_but(layout.files)
    done, joined = _Done(model, begun, surviving), layout.rest if layout.joined else {}
    buffers, ahead = Buffers(), ReadAhead(model.vectors)

    def write(unit: Written, following: Sequence[Written], writer: SafetensorsWriter) -> None:
        ahead.ask([name for one in following for name in one.names])
        merged = {name: exact_parameter(model, coefficients, name, surviving, buffers) for name in unit.names}
        _write_unit(unit, merged, writer, done)
        buffers.give_back(merged.values())

    for file, units in layout.units.items():
        headers = {**layout.files[file], **headers_of(joined)}
        with SafetensorsWriter(begun.files / file, headers, METADATA, file_in_place) as writer:
            left = [unit for unit in units if not done.keep(unit, headers, writer)]
            work = [partial(write, unit, left[place : place + 1], writer) for place, unit in enumerate(left, 2)]
            in_two_threads(work)
            for name, tensor in joined.items():
                writer.write(name, tensor)
    files = dict(layout.files)
    if layout.rest and not layout.joined:
        last = file_name(len(files) + 1, len(files) + 1)
        write_safetensors(begun.files / last, layout.rest, METADATA)
        files[last] = headers_of(layout.rest)
    write_index(begun.files, files)
    notes = tuple(done.lines(sum(map(size_of, layout.files.values()))))
    return Backbone(layout.files, not joined, layout.most, done.checksums, notes)


def _write_unit(unit: Written, merged: Mapping[str, Tensor], writer: SafetensorsWriter, done: "_Done") -> None:
    """Write what is written together, and then note that it is finished."""
    checksums = {name: checksum_of(tensor) for name, tensor in merged.items()}
    tensors = unit.apply(merged)
    for name, tensor in tensors.items():
        writer.write(name, tensor)
    writer.flush()
    if unit.name is not None:
        done.note(checksums, {unit.name: checksums[unit.names[0]].crc})
    else:
        done.note(checksums, {name: zlib.crc32(bytes_of(tensor)) for name, tensor in tensors.items()})


class _Done:
    """What of the backbone is in its files: by this process, or by one that was interrupted."""

    def __init__(self, model: MergedModel, begun: Begun, surviving: SurvivingShare) -> None:
        self._model, self._begun, self._surviving = model, begun, surviving
        self._former = dict(begun.finished)
        self._kept, self._damaged, self._noting = 0, 0, Lock()
        self.checksums: dict[str, Checksum] = {}

    def keep(self, unit: Written, headers: Mapping[str, Header], writer: SafetensorsWriter) -> bool:
        """Return whether a unit lies in the file as it was noted; if so, take what was noted as found."""
        found = self._former.get(unit.names[0])
        if found is None:
            return False
        tensors = cast(Mapping[str, int], found["tensors"])
        if not writer.keep(tensors):
            self._damaged += 1
            return False
        shapes, dtypes = self._model.experts.base, self._model.rounding.dtypes
        for name, crc in cast(Mapping[str, int], found["parameters"]).items():
            self.checksums[name] = Checksum(dtypes[name], shapes.shape(name), crc)
        for name, sums in cast(Mapping[str, object], found["shares"]).items():
            self._surviving.put(name, sums)
        self._kept += size_of({name: headers[name] for name in tensors})
        return True

    def note(self, checksums: Mapping[str, Checksum], tensors: Mapping[str, int]) -> None:
        """Note that a unit is in the file; several threads may.

        Args:
            checksums: Of its parameters, by name in the module.
            tensors: CRC-32 of its tensors, by name in the file.
        """
        shares = {name: sums for name in checksums if (sums := self._surviving.of(name)) is not None}
        parameters = {name: checksum.crc for name, checksum in checksums.items()}
        with self._noting:
            self.checksums.update(checksums)
            self._begun.note(next(iter(checksums)), {"parameters": parameters, "tensors": tensors, "shares": shares})

    def lines(self, size: int) -> Iterator[str]:
        """Say what was kept, and what was not.

        Args:
            size: Of the backbone, in bytes.
        """
        if self._former:
            unit, word = next(one for one in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if size >= one[0] or one[0] == 1e3)
            more = f"; damaged tensors of it that are written again: {self._damaged}" if self._damaged else ""
            yield (
                "the export went on from one that was interrupted: "
                f"{self._kept / unit:.1f} of {size / unit:.1f} {word} were written{more}"
            )
        if self._begun.others:
            yield (
                f"note: an export to the same folder, which was interrupted, was of other "
                f"{' and '.join(self._begun.others)}: what it had written was removed"
            )


def _headers_of(unit: Written, model: MergedModel) -> dict[str, Header]:
    """Return shapes and dtypes of what is written together, by name in the file."""
    shapes, dtypes = model.experts.base, model.rounding.dtypes
    meta = {n: torch.empty(shapes.shape(n), dtype=dtypes[n], device="meta") for n in unit.names}
    return headers_of(unit.apply(meta))


def _divide(units: Mapping[Written, Mapping[str, Header]], shard_bytes: int) -> list[list[Written]]:
    """Divide what is written together among files: a new file begins where the next would not fit."""
    shards: list[list[Written]] = [[]]
    size = 0
    for unit, headers in units.items():
        own = size_of(headers)
        size += own
        if size > shard_bytes and shards[-1]:
            shards.append([])
            size = own
        shards[-1].append(unit)
    return shards
