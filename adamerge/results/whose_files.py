"""Whose tokenizer, templates, settings and modules an exported checkpoint gets, and which task gets its own."""

from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from adamerge.experts.compatibility import config_differences
from adamerge.experts.experts import Expert, Experts
from adamerge.experts.name_patterns import several
from adamerge.experts.shared_settings import shared_settings
from adamerge.results.beside import Beside, contents, read_beside, remarks_on
from adamerge.results.in_common import agreed, common_files, generation, is_alike, same, shared, tokenizer_of
from adamerge.results.module_weights import Blend, Source, likeness, sources, why_not_merged
from adamerge.results.sentence_modules import Modules, as_safe, common_modules, without
from adamerge.results.special_tokens import map_notes
from adamerge.storage.digest import digest_of_path
from adamerge.types import Fact

_STOPS = ("bos_token_id", "eos_token_id", "pad_token_id")
_NAMES = {
    "tokenizer": "tokenizer",
    "processor": "processor",
    "templates": "chat template",
    "generation": "generation settings",
    "token_ids": "special tokens of config.json",
    "modules": "sentence-transformers modules",
    "heads": "head beside the encoder",
    "code": "code",
}
"""Kinds of files that accompany weights, as notes call them."""

_UNLIKE = 0.5
"""Cosine of two experts' modules below which they were initialised apart, so that their mean means little."""


@dataclass(frozen=True)
class Plan:
    """Files that accompany the weights of an exported checkpoint.

    Attributes:
        root: Of the merged checkpoint itself.
        weights: Where its modules' weights come from, by path.
        tasks: Of each task that has a folder of its own.
        notes: Messages for the user.
        settings: Settings of the merged checkpoint's config.json that are not the base's, by dotted key.
    """

    root: Beside
    weights: Mapping[str, Source]
    tasks: Mapping[str, Beside]
    notes: tuple[str, ...] = ()
    settings: Mapping[str, object] = field(default_factory=dict[str, object])


def plan_of(experts: Experts) -> Plan:
    """Decide which files accompany the weights of an exported checkpoint.

    What all experts bring alike is the merged checkpoint's, else it is the base's; what only some bring is theirs
    alone. A task gets a folder of its own if it has a head, or if anything beside its weights differs from the merged
    checkpoint's.

    Args:
        experts: Base and experts from disk.
    """
    assert experts.checkpoint is not None
    base = read_beside(experts.checkpoint)
    own = {task: _effective(read_beside(one.checkpoint), base) for task, one in experts.tasks.items() if one.checkpoint}
    pool = {task: beside for task, beside in own.items() if not experts.tasks[task].head}
    root = (_merged if pool else _filled)(base, list(own.values()))
    root, weights, notes = _with_weights(root, base, pool)
    notes += _without_pooling(root, pool, list(own))
    settings = shared_settings(experts.checkpoint, experts.tasks)
    differences = {
        task: _differing(beside, root, weights) + _other_config(experts, task, settings) for task, beside in own.items()
    }
    apart = {task: own[task] for task, found in differences.items() if found or experts.tasks[task].head}
    tasks = {task: _completed(beside, base, root, experts.tasks[task]) for task, beside in apart.items()}
    notes += _taken_notes(root, base, list(own), settings)
    notes += [_apart_note(task, found, pool) for task, found in differences.items() if found]
    notes += [line for task in own.keys() - tasks.keys() for line in _licence_notes(task, own[task], root)]
    notes += [_head_note(task, beside) for task, beside in tasks.items() if beside.heads]
    notes += map_notes([root, *tasks.values()])
    every = (experts.checkpoint, *(one.checkpoint for one in experts.tasks.values()))
    notes += [line for one in every if one for line in remarks_on(one)]
    return Plan(root, weights, tasks, tuple(dict.fromkeys(notes)), settings)


def has_own_folder(experts: Experts) -> list[str]:
    """List the tasks whose model has a folder of its own in an exported checkpoint."""
    heads = [task for task, expert in experts.tasks.items() if expert.head]
    return heads if len(heads) == len(experts.tasks) or not from_disk(experts) else list(plan_of(experts).tasks)


def from_disk(experts: Experts) -> bool:
    """Return whether base and experts are all checkpoints on disk."""
    return all(one.checkpoint is not None for one in (experts, *experts.tasks.values()))


def _effective(own: Beside, base: Beside) -> Beside:
    """Add to an expert without generation_config.json the end tokens of its config.json that differ from the base's."""
    mine, theirs = ({key: _generates_by(one.token_ids, key) for key in _STOPS} for one in (own, base))
    ids = {key: value for key, value in mine.items() if value not in (None, theirs[key])}
    lacks = base.generation and not own.generation  # where both lack it, each generates by its config.json
    return replace(own, generation={**base.generation, **ids}) if lacks and ids else own


def _generates_by(ids: Mapping[str, object], key: str) -> object:
    """Return the token by which a model generates: that of its text part, if it has one."""
    return ids.get(f"text_config.{key}", ids.get(key))


def _merged(base: Beside, own: Sequence[Beside]) -> Beside:
    """Take what all experts bring alike, else the base's."""
    return Beside(
        tokenizer_of(base.tokenizer, [one.tokenizer for one in own], contents),
        shared(base.processor, [one.processor for one in own], contents),
        cast(Mapping[str, str], agreed(base.templates, [one.templates for one in own])),
        generation(base.generation, [one.generation for one in own]),
        agreed(base.token_ids, [one.token_ids for one in own]),
        common_modules(base.modules, [one.modules for one in own]),
        shared(base.heads, [one.heads for one in own], contents),
        {**common_files([one.others for one in own]), **base.others},
    )


def _filled(base: Beside, own: Sequence[Beside]) -> Beside:
    """Take processors and templates of experts with heads only where the base has none."""
    found = _merged(base, own)
    return replace(
        base,
        tokenizer=base.tokenizer or found.tokenizer,
        processor=base.processor or found.processor,
        templates=base.templates or found.templates,
        others=found.others,
    )


def _with_weights(
    root: Beside, base: Beside, pool: Mapping[str, Beside]
) -> tuple[Beside, dict[str, Source], list[str]]:
    """Find the sources of the modules' weights, and drop modules that have none in common."""
    modules, notes, weights = root.modules, list[str](), dict[str, Source]()
    if modules is None:
        return root, weights, notes
    brought = {task: one.modules for task, one in pool.items() if one.modules}
    for module in [module for module in modules.modules if module.weights]:
        found = sources(module, base.modules, brought)
        if found is None:
            modules = without(modules, [module])
            notes.append(
                f"{module.path}: the experts' weights differ in kind or shape and the base has none, so the merged "
                "checkpoint has no such module. Each task's folder has its own."
            )
            continue
        weights |= found
        reason = why_not_merged(module, base.modules, brought)
        notes += dict.fromkeys(_source_note(module.path, source, reason) for source in found.values())
    return replace(root, modules=modules), weights, [note for note in notes if note]


def _without_pooling(root: Beside, pool: Mapping[str, Beside], tasks: Sequence[str]) -> list[str]:
    """Say that the merged checkpoint of sentence encoders is none: they pool differently, or not all are."""
    brought = [task for task, one in pool.items() if one.modules]
    if root.modules is not None or not brought:
        return []
    others = ", ".join(task for task in tasks if task not in brought)
    alone = f"are sentence encoders, but {others} and the base are not"
    why = alone if others else "pool differently and the base has no modules"
    return [
        f"{', '.join(brought)}: {why}, so the merged checkpoint has no modules: sentence-transformers would take the "
        "mean of all tokens. The folder of each of these tasks has its own."
    ]


def _source_note(path: str, source: Source, reason: str) -> str:
    if not isinstance(source, Blend):
        if not reason:
            return ""
        return f"{path}: {reason}, so the merged checkpoint has the base's weights, and each task's folder its own."
    if source.base is not None:
        return Fact(f"{path}: its weights are merged with the mean coefficient of each expert, without transforms.")
    cosine = likeness(source)
    doubt = " They were initialised apart, so their mean means little." if cosine < _UNLIKE else ""
    return (
        f"{path}: {reason or 'the base has none'}, so the merged checkpoint gets the mean of the experts' (least "
        f"cosine {cosine:.2f}), and each task's folder its own.{doubt}"
    )


def _differing(own: Beside, root: Beside, weights: Mapping[str, Source]) -> list[str]:
    """List what of a task differs from the merged checkpoint; what a task does not bring does not differ."""
    files = {"tokenizer": (own.tokenizer, root.tokenizer), "processor": (own.processor, root.processor)}
    files["heads"] = (own.heads, root.heads)
    files["code"] = (own.code, {name: file for name, file in root.code.items() if name in own.code})
    found = [kind for kind, (mine, theirs) in files.items() if mine and contents(mine) != contents(theirs)]
    settings = {
        "templates": (own.templates, root.templates),
        "generation": (own.generation, root.generation),
        "token_ids": (own.token_ids, root.token_ids),
    }
    for kind, (mine, theirs) in settings.items():
        keys = {**mine, **theirs} if kind == "generation" and mine else mine
        found += [kind] if any(not same(mine.get(key), cast(object, theirs.get(key))) for key in keys) else []
    found += ["modules"] if own.modules and _modules_differ(own.modules, root.modules, weights) else []
    return [_NAMES[kind] for kind in found]


def _licence_notes(task: str, own: Beside, root: Beside) -> list[str]:
    """Say which licence of a task without a folder of its own is not beside the merged weights."""
    names = [name for name, file in own.others.items() if not is_alike(name, file, root.others)]
    if not names:
        return []
    return [Fact(f"{task}: {several(names)}: not copied, because not all experts have the same. Read it where it is.")]


def _modules_differ(own: Modules, root: Modules | None, weights: Mapping[str, Source]) -> bool:
    """Return whether a task's modules are others, or have weights that are neither the root's nor merged into them."""
    if root is None or own.contents() != root.contents():
        return True
    files = {as_safe(name): file for module in own.modules for name, file in module.weights.items()}
    written = {as_safe(name): source for name, source in weights.items()}
    return any(not _in_the_merge(file, written.get(name)) for name, file in files.items())


def _in_the_merge(file: Path, source: Source | None) -> bool:
    """Return whether a file of weights is what the merged checkpoint has, or is merged into the base's."""
    if isinstance(source, Blend):
        return source.base is not None
    return source is not None and digest_of_path(source) == digest_of_path(file)


def _other_config(experts: Experts, task: str, shared: Collection[str]) -> list[str]:
    """Say whether an expert computes otherwise than the merged checkpoint; a zero-shot task is run with the base's.

    A task with a head has its own settings beside it anyway.
    """
    expert = experts.tasks[task]
    if expert.head or expert.prefix or expert.checkpoint is None or experts.checkpoint is None:
        return []
    return ["config.json"] if config_differences(experts.checkpoint, expert.checkpoint, shared) else []


def _completed(own: Beside, base: Beside, root: Beside, expert: Expert) -> Beside:
    """Add the base's processor, templates and generation settings where a task has none, as rows are encoded with.

    A classifier needs no chat templates.
    """
    templates = own.templates or ((base.templates or root.templates) if expert.kind.language_model else {})
    return replace(
        own,
        tokenizer=own.tokenizer or base.tokenizer or root.tokenizer,
        processor=own.processor or base.processor or root.processor,
        templates=templates,
        generation=own.generation or base.generation,
        modules=own.modules or (None if expert.head else root.modules),
        others={**root.others, **own.others},
    )


def _taken_notes(root: Beside, base: Beside, tasks: Sequence[str], settings: Collection[str]) -> list[str]:
    """Note what the merged checkpoint has of its experts."""
    taken = [name for kind, name in _NAMES.items() if _value(root, kind) != _value(base, kind)]
    taken += [f"{several(sorted(settings))} of config.json"] if settings else []
    if not taken:
        return []
    return [Fact(f"the merged checkpoint gets {', '.join(taken)} of {', '.join(tasks)}, not the base's.")]


def _value(beside: Beside, kind: str) -> object:
    found = getattr(beside, kind)
    if isinstance(found, Modules):
        return found.contents()
    return contents(found) if kind in ("tokenizer", "processor", "heads", "code") else found


def _apart_note(task: str, differing: Sequence[str], pool: Container[str]) -> str:
    if task not in pool:
        return Fact(
            f"{task}: its folder has its own {', '.join(differing)}, which the merged checkpoint beside it lacks."
        )
    return Fact(
        f"{task}: has its own {', '.join(differing)}, so its export is a folder of its own: the merged weights with "
        "these. The merged checkpoint beside it has the base's, or what all experts share."
    )


def _head_note(task: str, beside: Beside) -> str:
    return Fact(
        f"{task}: {', '.join(beside.heads)}: copied to its folder without being opened. This head was trained on the "
        "expert's embeddings, not on the merged ones."
    )
