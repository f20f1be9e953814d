"""Learns from unlabeled data how much of each fine-tuned expert to merge into one model.

In Python, after `adamerge demo` has made a base and four experts::

    from functools import partial
    from pathlib import Path

    from torch.optim import Adam

    from adamerge.api import Learning, MergeConfig, ModelConfig
    from adamerge.api import build_model, divide, export, inspect_weights, learn, load_data, open_experts

    tasks = ("upright", "rotated", "inverted", "occluded")
    models = [ModelConfig(f"demo/models/{task}", calibration=f"demo/data/{task}/calibration") for task in tasks]
    config = MergeConfig("demo/models/base", models)
    experts = open_experts(config)
    rows = divide(load_data(config, experts).calibration, config.data, seed=0)
    model = build_model(config, experts, inspect_weights(experts).changed, Path("kept"))
    learned = learn(model, config.objective, rows, Learning(partial(Adam, lr=1e-2), feasible=config.feasible))
    export(model, learned.coefficients, Path("merged"))
    print(learned.best_step, learned.coefficients.shape)  # coefficients: (groups, experts)

`adamerge.api` holds all that a merge needs; importing `adamerge` alone imports nothing.
"""
