"""adapter_config.json of a LoRA adapter: what is read from it, and what is refused by its name."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from adamerge.types import ConfigError

CONFIG = "adapter_config.json"

_PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal")
"""Values of init_lora_weights that leave the base as it was; all others change it while training begins."""

_CHANGES_WEIGHTS_OTHERWISE = {
    "alora_invocation_tokens": "activated LoRA is active on some tokens only and is no change of weights",
    "layer_replication": "layers are replicated, so the adapter's layers are not the base's",
    "use_qalora": "QALoRA groups the inputs of a quantised base",
    "use_bdlora": "block-diagonal factors are not supported",
    "kasa_config": "KaSA changes the base's singular values",
    "arrow_config": "Arrow chooses among adapters per token",
    "velora_config": "VeLoRA is not supported",
    "monteclora_config": "MonteCLoRA is not supported",
    "megatron_config": "Megatron's parallel layers are not supported",
}
"""Options of PEFT under which base + scale · B A is not what was trained."""


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
        base_class: Class of the model that it was trained on, if the file names it.
        target_parameters: Parameters of three dimensions (experts of a mixture) with factors.
        token_rows: Rows of the embeddings that were trained, by the module's name, or for the input embeddings ("").
        scales_directly: Whether `alpha` is the scale itself (mlx-lm).
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


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds an adapter and no complete checkpoint."""
    names = (CONFIG, "adapters.safetensors", "pytorch_lora_weights.safetensors", "adapter.safetensors")
    return any((folder / name).exists() for name in names) and not (folder / "config.json").exists()


def read_adapter_config(source: str, folder: Path) -> AdapterConfig:
    """Read the options of an adapter.

    Raises:
        ConfigError: The file cannot be read, or names a kind of adapter that is no change of weights by LoRA.
    """
    file = folder / CONFIG
    try:
        options = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: expected the options of an adapter as JSON ({error}). Copy it again.") from error
    if not isinstance(options, dict):
        raise ConfigError(f"{file}: expected a mapping of options, found {type(options).__name__}. Copy it again.")
    if "lora_parameters" in options:
        return _of_mlx(source, options)
    problems = [f"{file}: {problem}" for problem in _problems(options)]
    if problems:
        raise ConfigError("\n".join(problems))
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
    )


def _of_mlx(source: str, options: Mapping[str, object]) -> AdapterConfig:
    """Options as mlx-lm writes them; its scale is not divided by the rank."""
    parameters = options["lora_parameters"]
    scale = parameters.get("scale") if isinstance(parameters, dict) else None
    kind = options.get("fine_tune_type", "lora")
    if kind not in ("lora", "dora") or not isinstance(scale, int | float):
        raise ConfigError(
            f"{source}: expected a LoRA adapter of mlx-lm with lora_parameters.scale, found fine_tune_type {kind!r} "
            f"and scale {scale!r}. Fuse the model with mlx_lm.fuse, and give the result."
        )
    base = str(options.get("model") or "")
    return AdapterConfig(source, float(scale), {}, False, kind == "dora", None, base, None, (), {}, True)


def _problems(options: Mapping[str, object]) -> Iterator[str]:
    """List what makes an adapter something else than base + scale · B A."""
    kind = options.get("peft_type")
    if kind is None and ("model_class" in options or str(options.get("version", "")).startswith("adapters.")):
        yield "an adapter of AdapterHub, expected one of PEFT. Load and merge it with `adapters`, save the model."
        return
    if kind != "LORA":
        yield f"this is a {kind or 'nameless kind of'} adapter, expected LORA. {_MERGE_FIRST}"
        return
    if options.get("lora_alpha") is None:
        yield "expected lora_alpha, found none, so the scale is unknown (PEFT takes 8). Write the one of the training."
    start = options.get("init_lora_weights", True)
    if not any(start is one or start == one for one in _PLAIN_STARTS):
        yield (
            f"init_lora_weights is {start!r}, which changed the base before training, so the adapter does not fit the "
            "base itself. Convert it with PEFT: save_pretrained(…, path_initial_model_for_weight_conversion=…)."
        )
    for key, reason in _CHANGES_WEIGHTS_OTHERWISE.items():
        if options.get(key):
            yield f"{key} is set: {reason}. {_MERGE_FIRST}"


_MERGE_FIRST = (
    "Merge it into its base with PEFT where it can be (merge_and_unload().save_pretrained(…)), and give the result."
)


def _token_rows(value: object) -> dict[str, tuple[int, ...]]:
    if isinstance(value, dict):
        return {str(name): tuple(rows) for name, rows in value.items()}
    return {"": tuple(value)} if isinstance(value, list) else {}
