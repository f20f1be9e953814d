"""Streamed against in-memory execution on every family of models: losses, gradient and outputs.

python tests/benchmarks/streamed_families.py            # every family, about two minutes
python tests/benchmarks/streamed_families.py Llama T5   # those whose class begins so
"""

import argparse
import sys
import warnings
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1]))

from families.table import GROUPED, PIXELS, TABLE, TOKENS, Family
from support.streamed import compared

LLAVA = {
    "text_config": {"model_type": "llama", **TOKENS},
    "vision_config": {"model_type": "clip_vision_model", **PIXELS},
    "image_token_index": 39,
    "image_token_id": 39,
}
WHISPER = {
    "vocab_size": 40, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_mel_bins": 8,
    "max_source_positions": 12, "max_target_positions": 32, "pad_token_id": 2, "bos_token_id": 0, "eos_token_id": 1,
    "decoder_start_token_id": 0, "suppress_tokens": None, "begin_suppress_tokens": None,
}  # fmt: skip
MORE = [
    Family("LlamaForCausalLM", {**TOKENS, "tie_word_embeddings": True}),
    Family("MixtralForCausalLM", {**TOKENS, **GROUPED}),
    Family("Qwen3ForCausalLM", {**TOKENS, **GROUPED}),
    Family("WhisperForConditionalGeneration", WHISPER),
    Family("LlavaForConditionalGeneration", LLAVA),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    names = tuple(parser.parse_args().names)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    worst = 0.0
    for family in [*TABLE, *MORE]:
        if names and not family.architecture.startswith(names):
            continue
        found = compared(family)
        print(f"{family.architecture:45} {found}", flush=True)
        worst = max(worst, found.worst)
    print(f"largest relative difference: {worst:.1e}")


if __name__ == "__main__":
    main()
