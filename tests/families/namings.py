"""Names under which files of a class are found besides today's, from transformers' own tables, and what is read."""

import torch
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, get_model_conversion_mapping
from transformers.core_model_loading import (
    PrefixChange,
    WeightConverter,
    WeightRenaming,
    rename_source_key,
    revert_weight_conversion,
)

from adamerge.experts.conversion import Converted, written
from adamerge.experts.match_names import match_tensors
from adamerge.storage.weights import InMemory

FORMER, OWN, BARE, WHOLE, PARTS = "former names", "the module's names", "without prefix", "with prefix", "with parts"
KINDS = (FORMER, OWN, BARE, WHOLE, PARTS)


def state(model):
    """A model's parameters and buffers by name in the module, tied ones once."""
    return {name: tensor for name, tensor in model.state_dict().items() if name not in model.all_tied_weights_keys}


def stored(model):
    """What `save_pretrained` writes of a model that was never loaded, by name in the file."""
    return revert_weight_conversion(model, state(model))


def namings(model, names):
    """Other names of a file's tensors: {kind: {today's name: other name}}, of which transformers places all."""
    start = f"{model.base_model_prefix}."
    prefixes = [rule for rule in get_model_conversion_mapping(model) if isinstance(rule, PrefixChange)]
    whole = any(name.startswith(start) for name in model.state_dict())
    found = {
        FORMER: reverted(get_checkpoint_conversion_mapping("legacy"), names),
        OWN: {unit.name: unit.names[0] for unit in written(model, list(model.state_dict())) if unit.name},
        BARE: {name: name.removeprefix(start) for name in names},
        WHOLE: {} if whole else {name: start + name for name in names},
        PARTS: reverted(prefixes, names),
    }
    changed = {kind: {now: other for now, other in pairs.items() if now != other} for kind, pairs in found.items()}
    return {kind: pairs for kind, pairs in changed.items() if pairs and placed(model, pairs.values())}


def reverted(rules, names):
    """Names in a file by today's name, before some of transformers' renamings."""
    back = [rule.reverse_transform() for rule in reversed(rules)]
    return {name: rename_source_key(name, back, [], reverse=True)[0] for name in names}


def placed(model, names):
    """Whether transformers finds a place for each name, without computing anything."""
    rules, own = get_model_conversion_mapping(model), model.state_dict()
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    return all(rename_source_key(n, renamings, converters, model.base_model_prefix, own)[0] in own for n in names)


def under(pairs, tensors):
    """Tensors under their other names."""
    return {pairs.get(name, name): tensor for name, tensor in tensors.items()}


def read(model, tensors):
    """What a merge reads from a file's tensors, by name in the module."""
    source = InMemory(tensors)
    found = match_tensors("file", source, model)
    assert not found.missing, found
    assert not found.unexpected, found
    converted = Converted(source, found.names)
    return {name: converted[name] for name in found.names}


def exported(model, tensors):
    """What an export writes of a module's tensors, by name in the file."""
    units = written(model, list(tensors))
    made = [unit.apply({name: tensors[name] for name in unit.names}) for unit in units]
    return {name: tensor for part in made for name, tensor in part.items()}


def equal(some, others):
    """Whether tensors have the same names and values."""
    return some.keys() == others.keys() and all(torch.equal(some[name], others[name]) for name in others)


def line(member, model):
    """A class's line of the table in docs/families.md, once all its namings were read and exported alike."""
    here, file = state(model), stored(model)
    found = namings(model, list(file))
    for pairs in [{}, *found.values()]:
        tensors = read(model, under(pairs, file))
        assert equal(tensors, here), member
        assert equal(exported(model, tensors), file), member
    return f"| {getattr(member, 'title', member.architecture)} | {'; '.join(map(shown, found, found.values()))} |"


def shown(kind, pairs):
    """One naming by its first pair."""
    now, other = next(iter(pairs.items()))
    return f"{kind}: `{other}` for `{now}`"
