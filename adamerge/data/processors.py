"""The processor of each task: what its expert brings, else the base's."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, cast

from transformers import PreTrainedTokenizerBase, ProcessorMixin
from transformers.image_processing_base import ImageProcessingMixin

from adamerge.data.encode import modalities_of
from adamerge.data.load_both import load_both
from adamerge.data.media import reads
from adamerge.data.modality import AnyProcessor, Modality, Processor
from adamerge.data.processor_differences import differences, key_notes
from adamerge.data.processor_files import is_damaged, template_of
from adamerge.data.tokenize import check_limit, check_names, check_vocabulary, has_vocabulary, lend_padding
from adamerge.experts.checkpoint import Checkpoint
from adamerge.experts.experts import KEEP, Expert, Experts
from adamerge.experts.name_patterns import several
from adamerge.types import ConfigError, Fact


class Own(NamedTuple):
    """The processor of one task.

    Attributes:
        processor: Tokenizer, image processor or both; None if neither expert nor base is from disk.
        notes: Messages for the user.
    """

    processor: AnyProcessor | None
    notes: tuple[str, ...] = ()


class Processors:
    """Processors of all tasks: the expert's where it brings one, else the base's; each is loaded once.

    Args:
        experts: Base and experts.
        given: Processors that the user passed, by task; they replace those on disk.
    """

    def __init__(self, experts: Experts, given: Mapping[str, AnyProcessor] | None = None) -> None:
        self._experts, self._given = experts, given or {}
        self._bases: dict[str, Processor | None] = {}
        self._borrowed: dict[str, list[str]] = {}
        self._brought: set[str] = set()

    @property
    def notes(self) -> list[str]:
        """Say which tasks were encoded with the base's processor, where other experts bring their own."""
        mixed = {what: tasks for what, tasks in self._borrowed.items() if what in self._brought}
        return [f"encoded with the base's {what}: {', '.join(tasks)}" for what, tasks in mixed.items()]

    def of(self, task: str) -> Own:
        """Find the processor of a task, and list how it differs from the base's.

        Raises:
            ConfigError: Neither expert nor base has one, it cannot be loaded, or the vocabularies do not fit together.
        """
        expert = self._experts.models[task]
        if task not in self._given and expert.folder is None and self._experts.folder is None:
            return Own(None)
        modality = modalities_of(expert.kind)[0]
        given = self._given.get(task)
        base, own = self._of_base(modality), None if given is None else modality.part(given)
        place, own = self._own(expert, modality) if own is None else (expert.folder, own)
        if own is None and base is None:
            if expert.checkpoint is None and self._experts.checkpoint is None:
                return Own(None)
            raise self._missing(expert, modality)
        processor, notes = _completed(expert, own, base, modality)
        if own is not None and own is not base and expert.checkpoint is None and task not in self._given:
            notes = [
                Fact(f"{task}: is encoded with the {modality.loads} in {expert.folder}, its module's folder."),
                *notes,
            ]
        if processor is base and task != KEEP:
            self._borrowed.setdefault(modality.loads, []).append(task)
        elif processor is not base:
            self._brought.add(modality.loads)
        if base is not None:
            check_vocabulary(processor, base, expert, self._experts)
            notes += _difference_notes(task, modality, processor, base)
        if own is not None and task not in self._given:
            notes += [f"{task}: {note}" for note in key_notes(place, processor)]
        notes += lend_padding(processor, expert.kind)
        return Own(self._whole(expert, processor, given), tuple(notes))

    def _own(self, expert: Expert, modality: Modality) -> tuple[Path | None, Processor | None]:
        """Return the processor beside an expert's weights, with its folder; of the base as a teacher, the base's."""
        if expert.name == KEEP:
            return self._experts.folder, self._of_base(modality)
        return _first(expert, modality)

    def _whole(self, expert: Expert, processor: Processor, given: AnyProcessor | None) -> AnyProcessor:
        """Return the processor of texts and images of a language model that reads both, if there is one."""
        if isinstance(given, ProcessorMixin):
            return given
        if not (expert.kind.language_model and reads(expert.own_module, "image")):
            return processor
        trusted = expert.checkpoint.trust_remote_code if expert.checkpoint else False
        for folder in (*expert.folders, self._experts.folder):
            whole = load_both(folder, trusted=trusted)
            if not isinstance(whole, str):
                whole.tokenizer = processor  # pyright: ignore[reportAttributeAccessIssue]
                return whole
        return processor

    def _of_base(self, modality: Modality) -> Processor | None:
        if modality.loads not in self._bases:
            self._bases[modality.loads] = saved_processor(self._experts.folder, self._experts.checkpoint, modality)
        return self._bases[modality.loads]

    def _missing(self, expert: Expert, modality: Modality) -> ConfigError:
        checkpoint = self._experts.checkpoint or expert.checkpoint
        assert checkpoint is not None
        return ConfigError(
            f"{checkpoint.source}: expected the {modality.loads} of {expert.kind.architecture} beside the weights, but "
            f"found none there, nor beside those of {expert.name}. Copy its files there from the fine-tuned model."
        )


def _first(expert: Expert, modality: Modality) -> tuple[Path | None, Processor | None]:
    """Load the processor in the first of an expert's folders that has one."""
    for folder in expert.folders:
        found = saved_processor(folder, expert.checkpoint, modality)
        if found is not None:
            return folder, found
    return expert.folder, None


def saved_processor(folder: Path | None, checkpoint: Checkpoint | None, modality: Modality) -> Processor | None:
    """Load the processor in the folder of a checkpoint, or of a module in memory; None if there is none.

    Raises:
        ConfigError: It is there, but transformers cannot load it.
    """
    if folder is None:
        return None
    trust = checkpoint.trust_remote_code if checkpoint else False
    try:
        processor = modality.loader.from_pretrained(folder, trust_remote_code=trust)
        if not isinstance(processor, _KINDS):
            raise TypeError(f"it names {type(processor).__name__}, which is none")
    except Exception as error:  # tokenizers raises plain exceptions on damaged files
        found = sorted(file.name for pattern in modality.files for file in folder.glob(pattern))
        if not found:
            return None
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        of = f" of {checkpoint.architecture}" if checkpoint else ""
        found = [*dict.fromkeys([*found, *(name for name in _BESIDE if (folder / name).exists())])]
        found = [name for name in found if is_damaged(folder / name)] or found
        raise ConfigError(
            f"{checkpoint.source if checkpoint else folder}: expected the {modality.loads}{of} in {', '.join(found)}, "
            f"but transformers cannot load it ({reason}). Copy its files again from the fine-tuned model."
        ) from error
    if not has_vocabulary(folder, processor):
        return None
    source = checkpoint.source if checkpoint else str(folder)
    check_limit(source, processor)
    check_names(source, processor)
    return processor


_KINDS = (PreTrainedTokenizerBase, ImageProcessingMixin)
"""What a file may name as class of a tokenizer or image processor; transformers loads any class of its own by name."""

_BESIDE = ("special_tokens_map.json", "added_tokens.json", "vocab.json", "chat_template.json", "processor_config.json")
"""Files that a processor may read besides those that it is found by."""


def _completed(
    expert: Expert, own: Processor | None, base: Processor | None, modality: Modality
) -> tuple[Processor, list[str]]:
    """Take the base's tokenizer or chat template where the expert brings none, and note it."""
    if own is None:
        assert base is not None
        given = next(filter(None, map(template_of, expert.folders)), None)
        template = given if isinstance(base, PreTrainedTokenizerBase) else None
        if template is None:
            return base, _passed_over(expert, modality)
        lent = copy.deepcopy(base)
        cast(PreTrainedTokenizerBase, lent).chat_template = template
        return lent, [f"{expert.name}: brings a chat template but no tokenizer: the base's tokenizer is used with it."]
    template = getattr(base, "chat_template", None)
    if template and isinstance(own, PreTrainedTokenizerBase) and not own.chat_template and expert.kind.language_model:
        own.chat_template = template
        return own, [f"{expert.name}: its tokenizer has no chat template: the base's is used."]
    return own, []


def _passed_over(expert: Expert, modality: Modality) -> list[str]:
    """Name the files beside an expert's weights that make no tokenizer without a vocabulary."""
    found = {file.name for folder in expert.folders for how in modality.files for file in folder.glob(how)}
    if not found:
        return []
    names = several(sorted(found))
    return [
        f"{expert.name}: {names} beside its weights make no {modality.loads} without a vocabulary: the base's is used."
    ]


def _difference_notes(task: str, modality: Modality, own: Processor, base: Processor) -> list[str]:
    found = differences(own, base) if own is not base else []
    if not found:
        return []
    return [f"{task}: is encoded with its own {modality.loads}, which differs from the base's: {'; '.join(found)}."]
