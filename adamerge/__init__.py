"""Learns from unlabeled data how much of each fine-tuned expert to merge into one model.

In Python, after `adamerge demo` has made a base and four experts::

    from functools import partial
    from pathlib import Path

    from torch.optim import Adam

    from adamerge import api

    tasks = ("upright", "rotated", "inverted", "occluded")
    models = [api.ModelConfig(f"demo/models/{task}", calibration=f"demo/data/{task}/calibration") for task in tasks]
    config = api.MergeConfig("demo/models/base", models)
    experts = api.open_experts(config)
    rows = api.divide(api.load_data(config, experts).calibration, config.data, seed=0)
    model = api.build_model(config, experts, api.inspect_weights(experts).changed, Path("task_vectors"))
    learning = api.Learning(partial(Adam, lr=1e-2), feasible=config.feasible)
    learned = api.learn(model, config.objective, rows, learning)  # learned.coefficients: (groups, experts)
    api.export(model, learned.coefficients, Path("merged"))

`adamerge.api` holds all that a merge needs; importing `adamerge` alone imports nothing.
"""
