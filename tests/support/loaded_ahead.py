"""What the fork server imports once for all processes that it starts; see `processes`."""

import gc
from importlib import import_module

gc.disable()  # imports leave no garbage
for module in (
    "adamerge.cli",
    "rich._emoji_codes",
    "adamerge.command_line",
    "adamerge.runs.fit",
    "adamerge.runs.config_errors",
    "datasets.packaged_modules.json.json",
    "matplotlib.backends.backend_agg",
    "rich.status",
    "scipy.io",
    "torch.profiler",
    "transformers.models.bert.modeling_bert",
    "transformers.models.bert.tokenization_bert",
):
    import_module(module)
gc.freeze()
gc.enable()
