"""adapter_config.json of a LoRA adapter: what is read from it, and what is refused by its name."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from adamerge.experts.adapter_formats import CONFIG, format_problem
from adamerge.experts.adapter_mlx_options import is_number, read_mlx_options
from adamerge.storage.regular_files import read_json
from adamerge.types import ConfigError, quoted

_PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal")
"""Values of init_lora_weights that leave the base as it was; all others change it while training begins."""

_CONVERT = "Convert it with PEFT: save_pretrained(…, path_initial_model_for_weight_conversion=…)"
_CHANGED = f"which changed the base before training, so the adapter does not fit the base itself. {_CONVERT}"
_UNCHANGED = (
    "which leaves the base as it was in PEFT 0.21, but not in all code. If PEFT trained it, or the base was not "
    "changed before training, write true in its place"
)
_STARTS = {
    **dict.fromkeys(("pissa", "corda", "olora", "lora_ga"), _CHANGED),
    **dict.fromkeys(("eva", "mica"), _UNCHANGED),
    "loftq": "which replaced the base by a quantised one and what that lost. Merge it with PEFT into the base that it "
    "was trained on, and give the complete model",
}
"""What starts do to the base, and what to do, by how their names begin."""
_OTHER_START = (
    f"which is not known here, and may have changed the base before training. If it has, c{_CONVERT[1:]}; if it has "
    "not, write true in its place"
)

_CHANGES_WEIGHTS_OTHERWISE = {
    "alora_invocation_tokens": "activated LoRA is active on some tokens only and is no change of weights, so it cannot "
    "be merged. Train a plain LoRA adapter, or serve it as it is",
    "layer_replication": "layers are replicated, so the adapter's layers are not the base's. Save the replicated base "
    "as a model of its own, and give it as base_model with adapters of it",
    "use_qalora": "QALoRA groups the inputs of a quantised base. Merge it with the code that trained it",
    "use_bdlora": "block-diagonal factors are not read. {merge}",
    "kasa_config": "KaSA changes the base's singular values. {merge}",
    "arrow_config": "Arrow chooses among adapters per token, so it cannot be merged. Give the adapters one by one",
    "velora_config": "VeLoRA is not read. {merge}",
    "monteclora_config": "MonteCLoRA is not read. {merge}",
    "megatron_config": "Megatron's parallel layers are not read. {merge}",
}
"""Options of PEFT under which base + scale · B A is not what was trained, with the reason and what to do."""

_NO_CHANGE_OF_WEIGHTS = {
    "PROMPT_TUNING": "learned tokens before the input",
    "MULTITASK_PROMPT_TUNING": "learned tokens before the input",
    "P_TUNING": "learned tokens before the input",
    "PREFIX_TUNING": "learned keys and values before the input's",
    "CPT": "learned tokens before the input",
    "CARTRIDGE": "learned keys and values before the input's",
    "ADAPTION_PROMPT": "learned prompts inside the attention",
    "POLY": "a mixture of adapters chosen per task",
    "XLORA": "a mixture of adapters chosen per token",
}
"""What adapters hold that are no change of weights, by PEFT's name of the kind."""

_READ = frozenset(
    {"peft_type", "lora_alpha", "alpha_pattern", "init_lora_weights", "trainable_token_indices", "r", "rank_pattern"}
)
"""Options that are read, besides those of `_TYPES`."""

_IDLE = frozenset(
    {
        *("peft_version", "inference_mode", "lora_dropout", "modules_to_save", "fan_in_fan_out", "bias"),
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "lora_bias", "runtime_config"),
        *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "megatron_core", "qalora_group_size"),
    }
)
"""Options that only trained the adapter, or that its tensors tell better."""

_TYPES: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("use_rslora", "use_dora", "ensure_weight_tying"), (bool,)),
    **dict.fromkeys(("task_type", "base_model_name_or_path", "revision"), (str,)),
    "auto_mapping": (dict,),
    "target_parameters": (list,),
}
"""Types of the options that are read; all may be null."""

KNOWN = _READ | _IDLE | _TYPES.keys() | _CHANGES_WEIGHTS_OTHERWISE.keys()
"""All options of PEFT 0.21."""

_WORDS: Mapping[type, str] = {bool: "true or false", str: "a text", dict: "a mapping", list: "a list"}

MERGE_FIRST = "Merge it into its base with PEFT (merge_and_unload().save_pretrained(…)), and give the complete model"


@dataclass(frozen=True)
class AdapterConfig:
    """Options of a LoRA adapter that decide its change of weights; ranks and places are read from the tensors.

    Attributes:
        source: Name of the adapter in messages.
        alpha: α of modules without a pattern.
        alpha_pattern: α by regular expression of the module's path; the first that matches holds.
        rslora: Whether the scale is α/√r and not α/r.
        dora: Whether rows are normalised to learned magnitudes.
        task_type: PEFT's name of the task (SEQ_CLS, CAUSAL_LM, …).
        base_model: Name or path of the base that it was trained on.
        revision: Commit or branch of the base on the hub that it was trained on; None for the newest.
        base_class: Class of the model that it was trained on, if the file names it.
        target_parameters: Parameters that have factors without being the weight of a layer (experts of a mixture).
        token_rows: Rows of the embeddings that were trained, by the module's name, or for the input embeddings ("").
        scales_directly: Whether `alpha` is the scale itself (mlx-lm).
        ties: Whether PEFT was told to change tied embeddings together (ensure_weight_tying).
        ranks: Rank by regular expression of the module's path, the one of all modules last ("").
        unknown: Options that are set, and that neither PEFT 0.21 nor mlx-lm has.
    """

    source: str
    alpha: float
    alpha_pattern: Mapping[str, float]
    rslora: bool
    dora: bool
    task_type: str | None
    base_model: str
    base_class: str | None
    target_parameters: tuple[str, ...]
    token_rows: Mapping[str, tuple[int, ...]]
    scales_directly: bool = False
    ties: bool = False
    ranks: Mapping[str, int] = field(default_factory=dict[str, int])
    unknown: tuple[str, ...] = ()
    revision: str | None = None

    def scale(self, module: str, rank: int) -> float:
        """Return what the product of the factors of a module is multiplied by: α/r, α/√r of rsLoRA.

        Example:
            >>> config = AdapterConfig("a", 16.0, {"down_proj": 32.0}, False, False, None, "", None, (), {})
            >>> config.scale("layers.0.q_proj", 8), config.scale("layers.0.down_proj", 8)
            (2.0, 4.0)
        """
        if self.scales_directly:
            return self.alpha
        alpha = next(iter(self.alphas(module)), self.alpha)
        return alpha / rank**0.5 if self.rslora else alpha / rank

    def alphas(self, module: str) -> list[float]:
        """List what the patterns that match a module say; the first holds."""
        return [alpha for key, alpha in self.alpha_pattern.items() if re.match(rf"(.*\.)?({key})$", module)]

    def rank(self, module: str) -> int | None:
        """Return the rank that the options say; that of the tensors is what counts."""
        return next((r for key, r in self.ranks.items() if not key or re.match(rf"(.*\.)?({key})$", module)), None)

    def rows_of(self, module: str) -> tuple[int, ...] | None:
        """Return the trained rows of an embedding, by the end of its path."""
        return next(
            (rows for key, rows in self.token_rows.items() if not key or f".{module}".endswith(f".{key}")), None
        )


def read_adapter_config(source: str, folder: Path) -> AdapterConfig:
    """Read the options of an adapter.

    Raises:
        ConfigError: The file cannot be read, or names a kind of adapter that is no change of weights by LoRA.
    """
    file = folder / CONFIG
    problem = format_problem(source, folder)
    if problem:
        raise ConfigError(problem)
    options = read_json(file, what="the options of an adapter as JSON", advice="Copy it again.")
    if not isinstance(options, dict):
        raise ConfigError(f"{file}: expected a mapping of options, found {type(options).__name__}. Copy it again.")
    if "lora_parameters" in options or "fine_tune_type" in options:
        return _of_mlx(source, options)
    other = _other_kind(options)
    checks = (_wrong_types, _wrong_class, _problems, _wrong_ranks)
    wrong = [other] if other else [problem for check in checks for problem in check(options)]
    problems = [f"{file}: {problem}" for problem in wrong]
    if problems:
        raise ConfigError(*problems)
    mapping = options.get("auto_mapping") or {}
    return AdapterConfig(
        source,
        float(options["lora_alpha"]),
        {key: float(alpha) for key, alpha in (options.get("alpha_pattern") or {}).items()},
        bool(options.get("use_rslora")),
        bool(options.get("use_dora")),
        options.get("task_type"),
        options.get("base_model_name_or_path") or "",
        mapping.get("base_model_class"),
        tuple(options.get("target_parameters") or ()),
        _token_rows(options.get("trainable_token_indices")),
        ties=bool(options.get("ensure_weight_tying")),
        ranks=_ranks(options),
        unknown=tuple(key for key, value in options.items() if value and key not in KNOWN),
        revision=options.get("revision"),
    )


def _ranks(options: Mapping[str, object]) -> dict[str, int]:
    patterns = options.get("rank_pattern")
    found = {**(patterns if isinstance(patterns, dict) else {}), "": options.get("r")}
    return {key: rank for key, rank in found.items() if isinstance(rank, int)}


def _of_mlx(source: str, options: Mapping[str, object]) -> AdapterConfig:
    """Read options as mlx-lm writes them; its scale is not divided by the rank."""
    found = read_mlx_options(source, options)
    base = str(options.get("model") or "")
    ranks = {"": found.rank} if found.rank else {}
    return AdapterConfig(source, found.scale, {}, False, found.dora, None, base, None, (), {}, True, True, ranks)


def _other_kind(options: Mapping[str, object]) -> str | None:
    """Say that an adapter is of another kind than LoRA; its other options mean something else then."""
    kind = options.get("peft_type")
    if isinstance(kind, str) and kind in _NO_CHANGE_OF_WEIGHTS:
        return (
            f"expected a LoRA adapter, found {kind}: {_NO_CHANGE_OF_WEIGHTS[kind]}, which is no change of weights and "
            "cannot be merged. Train a LoRA adapter, or leave this expert out."
        )
    if kind != "LORA":
        return f"expected a LoRA adapter (peft_type LORA), found {kind or 'no peft_type'}. {MERGE_FIRST}."
    return None


def _problems(options: Mapping[str, object]) -> Iterator[str]:
    """List what makes an adapter something else than base + scale · B A."""
    patterns = options.get("alpha_pattern") or {}
    numbers = {"lora_alpha": options.get("lora_alpha")}
    if isinstance(patterns, dict):
        numbers |= {f"alpha_pattern.{key}": alpha for key, alpha in patterns.items()}
    else:
        yield f"expected alpha_pattern as a mapping of pattern to number, found {patterns!r}. Save the adapter again."
    for key, value in numbers.items():
        if value is None:
            yield f"expected {key}, found none, so the scale is unknown (PEFT takes 8). Write the one of the training."
        elif not is_number(value):
            yield f"expected {key} as a finite number, found {value!r}. Write the one of the training."
    start = options.get("init_lora_weights", True)
    word = start.lower() if isinstance(start, str) else start
    if not any(word is one or (isinstance(one, str) and word == one) for one in _PLAIN_STARTS):
        known = (text for name, text in _STARTS.items() if isinstance(word, str) and word.startswith(name))
        yield f"init_lora_weights is {start!r}, {next(known, _OTHER_START)}."
    for key, reason in _CHANGES_WEIGHTS_OTHERWISE.items():
        if options.get(key) or (key == "alora_invocation_tokens" and options.get(key) is not None):
            yield f"{key} is set: {reason.format(merge=MERGE_FIRST)}."


def _wrong_ranks(options: Mapping[str, object]) -> Iterator[str]:
    """List ranks that no factors have; those of the tensors count."""
    ranks = options.get("rank_pattern")
    patterns = {f"rank_pattern.{key}": rank for key, rank in ranks.items()} if isinstance(ranks, dict) else {}
    for key, rank in {"r": options.get("r"), **patterns}.items():
        if rank is not None and not (type(rank) is int and rank > 0):
            yield f"expected {key} as a rank from 1, found {quoted(rank)}. Write the one of the training."


def _wrong_types(options: Mapping[str, object]) -> Iterator[str]:
    """List options that are of another type than PEFT writes, or that it could not use."""
    for key, types in _TYPES.items():
        value = options.get(key)
        if value is not None and not isinstance(value, types):
            words = " or ".join(_WORDS[one] for one in types)
            yield f"expected {key} as {words}, found {quoted(value)}. Save the adapter again."
    for key in ("alpha_pattern", "rank_pattern"):
        patterns = options.get(key)
        for pattern in patterns if isinstance(patterns, dict) else ():
            try:
                re.compile(rf"(.*\.)?({pattern})$")
            except re.error as error:
                yield f"expected {key}'s keys as regular expressions, found {quoted(pattern)} ({error}). Mend it."
    tokens = options.get("trainable_token_indices")
    for rows in tokens.values() if isinstance(tokens, dict) else [tokens]:
        if rows is not None and not (isinstance(rows, list) and all(type(row) is int and row >= 0 for row in rows)):
            yield f"expected trainable_token_indices as lists of indices from 0, found {quoted(rows)}. Correct it."


def _wrong_class(options: Mapping[str, object]) -> Iterator[str]:
    """Say that the name of the class that an adapter was trained over is no text."""
    mapping = options.get("auto_mapping")
    name = mapping.get("base_model_class") if isinstance(mapping, dict) else None
    if name is not None and not isinstance(name, str):
        yield f"expected auto_mapping.base_model_class as a text, found {quoted(name)}. Save the adapter again."


def _token_rows(value: object) -> dict[str, tuple[int, ...]]:
    if isinstance(value, dict):
        return {str(name): tuple(rows) for name, rows in value.items()}
    return {"": tuple(value)} if isinstance(value, list) else {}
