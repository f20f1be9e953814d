"""Patterns of the files that belong to a checkpoint beside its weights, whether on disk or on the hub."""

VOCABULARY = (
    *("tokenizer.json", "tekken.json", "*.tiktoken", "tiktoken.model", "bpe.codes", "prophetnet.tokenizer"),
    *("vocab.json", "vocab.txt", "vocab.bpe", "encoder.json", "entity_vocab.json", "target_vocab.json"),
    *("vocab-src.json", "vocab-tgt.json", "source.spm", "target.spm"),
    *("tokenizer.model", "tokenizer.model.v[0-9]*", "spiece.model", "spm.model", "spm_char.model"),
    *("sentencepiece.model", "sentencepiece.bpe.model"),
)
"""Files that hold a tokenizer's vocabulary: those that transformers' classes name, tiktoken's and Mistral's."""

TOKENIZER = (
    *VOCABULARY,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "dict.txt",
    "byte_maps.json",
    "emoji.json",
    "normalizer.json",
    "word_pronunciation.json",
    "word_shape.json",
)
"""Patterns of the files that transformers' tokenizers read."""

PROCESSOR = (
    *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
    "audio_tokenizer_config.json",
)
"""Patterns of the files of processors of images, videos and sound."""

KEYS = (".env", ".key", ".pem", ".p12", ".pfx", ".lic")
"""Endings of files that grant access; none belongs to a checkpoint, whatever else its name says."""

HEADS = (
    *("model_head.pkl", "model_head.skops", "config_setfit.json"),
    *("colbert_linear.pt", "sparse_linear.pt", "pytorch_model_head.bin"),
)
"""Patterns of heads that other programs keep beside an encoder (SetFit, FlagEmbedding's BGE-M3, adapters)."""

LICENCES = ("license", "licence", "notice", "copying", "use_policy")
"""Beginnings of the names of licences, in any case."""

_MODULES = ("[0-9]*_*/pytorch_model.bin",)
"""Pickled weights of modules of sentence-transformers, which are copied without being opened."""

DOWNLOADED = (
    *("*.json", "*.safetensors", "*.txt", "*.jinja", "*.py", "README.md"),
    *TOKENIZER,
    *PROCESSOR,
    *HEADS,
    *_MODULES,
    *("".join(f"[{c}{c.upper()}]" for c in word) + "*" for word in LICENCES),
)
"""Patterns of what is downloaded of a repository; on the hub `*` stands for folders too."""
