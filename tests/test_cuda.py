"""On a GPU as on the CPU: the same coefficients, scores and files, to rounding."""

import json
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.digits import digits_family
from support.families import build, configuration, near, random_vectors, write
from support.processes import Strike, run

from adamerge import Merge
from adamerge.calibration.targets import TargetSettings, compute_targets
from adamerge.experts.from_modules import from_modules
from adamerge.learning.learn import Calibration, learn
from adamerge.learning.settings import Learning
from adamerge.merging.execution import Work, execution_of
from adamerge.merging.grouping import row_blocks, tensor_wise
from adamerge.merging.merged_model import MergedModel, hold, task_vectors, uniform
from adamerge.merging.pinned_task_vectors import Pinned
from adamerge.merging.resident_task_vectors import Resident
from adamerge.objectives import Entropy
from adamerge.types import ConfigError

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, found none"),
]

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
WHOLE = {"batch_size": None}
SIMPLEX = {"class_path": "Simplex", "init_args": {"radius": 0.9, "includes_base": True}}
EXACT = {"dtype": "float64", "trainer": {"precision": "64-true"}}
"""For what decides between vertices or between shares of a budget, which rounding would decide otherwise."""
SGD = {"class_path": "SGD", "init_args": {"lr": 0.1}}
"""Not Adam: a key's bias has no gradient but rounding, which Adam blows up to steps of full size."""
LEARNED = {
    "entropy": {"optimizer": SGD},
    "entropy, mapped": {"optimizer": SGD, "memory": "mapped"},
    "entropy, resident": {"optimizer": SGD, "memory": "resident"},
    "entropy by Adam": EXACT,
    "deterministic": {"optimizer": SGD, "trainer": {"deterministic": True}, "feasible": SIMPLEX},
    "alignment with chunks over a centre": {
        "method": "expert_merging++",
        "centre": "Isotropic",
        "chunks": {"budget": 4, "first_steps": 4},
        **EXACT,
    },
    "closed form over RegMean": {"method": "expert_merging", "centre": "regmean", "init": "closed_form", **EXACT},
    "Ties": {"method": "adamerging++", "optimizer": SGD},
    "Frank-Wolfe": {"optimizer": "FrankWolfe", "feasible": SIMPLEX, "data": WHOLE, **EXACT},
    "Frank-Wolfe by cosine": {
        "optimizer": {"class_path": "FrankWolfe", "init_args": {"selection": "cosine", "variant": "plain"}},
        "feasible": SIMPLEX,
        "data": WHOLE,
        **EXACT,
    },
    "soft Frank-Wolfe": {"optimizer": "SoftFrankWolfe", "feasible": SIMPLEX, "data": WHOLE, **EXACT},
    "L-BFGS-B": {"optimizer": "LBFGSB", "feasible": "Box", "data": WHOLE},
    "projected gradient": {"optimizer": "ProjectedGradient", "feasible": SIMPLEX, "data": WHOLE},
}
DATA_FREE = [
    "Isotropic",
    "TaskSingularVectors",
    "Consensus",
    "Pcb",
    "Dare",
    "Wudi",
    "Swudi",
    "Aswudi",
    "ActMat",
    "DcMerge",
    "Doge",
    "Lines",
    "Magnitude",
    "Fisher",
]


def fit(main, accelerator, **changes):
    """Run a configuration; return its coefficients, its metrics, the merged checkpoint and what was printed."""
    config = configuration(**changes)
    own = {"max_steps": 8, **changes.get("trainer", {}), "accelerator": accelerator}
    config |= {"trainer": own, "watch": {"every": 4, "patience": None, "monitor": "last"}}
    code, said, complaint = main("fit", "--config", write(config), "--run_dir", accelerator)
    assert code == 0, complaint
    coefficients = load_file(f"{accelerator}/coefficients.safetensors")["coefficients"]
    with open(f"{accelerator}/metrics.json", encoding="utf-8") as file:
        metrics = json.load(file)
    return coefficients, metrics, tensors_of(f"{accelerator}/merged"), said


def tensors_of(folder):
    """The tensors of a checkpoint."""
    return {name: tensor for file in Path(folder).glob("*.safetensors") for name, tensor in load_file(file).items()}


def assert_equal_runs(main, atol=2e-3, **changes):
    (c, metrics, merged, said), (c_cpu, metrics_cpu, merged_cpu, _) = (
        fit(main, accelerator, **changes) for accelerator in ("gpu", "cpu")
    )
    assert f"device: cuda:0 ({torch.cuda.get_device_name(0)}" in said
    assert torch.allclose(c, c_cpu, atol=atol), (c - c_cpu).abs().max()
    for name, tensor in merged.items():
        assert torch.allclose(tensor, merged_cpu[name], atol=10 * atol), name
    for look, expected in zip(metrics["history"], metrics_cpu["history"], strict=True):
        assert look["objective"] == pytest.approx(expected["objective"], abs=20 * atol)
    assert metrics["expert"] == pytest.approx(metrics_cpu["expert"])


@pytest.mark.parametrize("case", LEARNED)
def test_learning_on_a_gpu_is_learning_on_the_cpu(family, main, case):
    assert_equal_runs(main, **LEARNED[case])


def test_mixed_precision_on_a_gpu_is_near_the_cpu(family, main):
    assert_equal_runs(main, atol=0.02, optimizer=SGD, trainer={"precision": "bf16-mixed"})


@pytest.mark.parametrize("name", DATA_FREE)
def test_transforms_on_a_gpu_are_those_on_the_cpu(family, main, name):
    changes = {"method": "task_arithmetic", "task_vectors": name, "trainer": {"max_steps": 0}, "optimizer": None}
    found, expected = (fit(main, accelerator, **changes)[2] for accelerator in ("gpu", "cpu"))
    for tensor, value in found.items():
        if not tensor.endswith("key.bias"):  # its Fisher information is rounding, of which the shares are taken
            assert torch.allclose(value, expected[tensor], atol=2e-3), (tensor, (value - expected[tensor]).abs().max())


def test_check_prints_the_device(family, main):
    code, said, _ = main("check", "--config", write(configuration(trainer={"accelerator": "auto", "max_steps": 2})))
    assert code == 0
    assert f"device: cuda:0 ({torch.cuda.get_device_name(0)}, " in said


def test_a_killed_run_resumes_to_the_same_coefficients(family, main):
    trainer = {"accelerator": "gpu", "deterministic": True, "max_steps": 12}
    for optimizer in ("LBFGSB", {"class_path": "Adam", "init_args": {"lr": 0.02}}, "SoftFrankWolfe"):
        feasible = SIMPLEX if optimizer == "SoftFrankWolfe" else "Box"
        changes = {"optimizer": optimizer, "feasible": feasible, "data": WHOLE, "watch": {"every": 2, "patience": None}}
        config = write(configuration(trainer=trainer, **changes))
        name = str(optimizer)[:5].strip("{'")
        whole, struck = f"whole_{name}", f"struck_{name}"
        assert main("fit", "--config", config, "--run_dir", whole)[0] == 0
        look = Strike("adamerge.calibration.agreement.HeldOut.measure", signal.SIGKILL, call=4)
        assert run(["fit", "--config", config, "--run_dir", struck], ".", f"{struck}.txt", look) == -signal.SIGKILL
        code, _, complaint = main("fit", "--config", f"{struck}/config.yaml", "--ckpt_path", "last")
        assert code == 0, complaint
        one, other = (load_file(f"{place}/coefficients.safetensors")["coefficients"] for place in (whole, struck))
        assert torch.equal(one, other), (one - other).abs().max()


def test_evaluation_and_export_of_a_run_on_a_gpu(family, main):
    _, metrics, merged, _ = fit(main, "gpu")
    assert main("evaluate", "gpu")[0] == 0
    with open("gpu/metrics.json", encoding="utf-8") as file:
        assert json.load(file)["learned"] == pytest.approx(metrics["learned"])
    assert main("export", "gpu", "again")[0] == 0
    again = tensors_of("again")
    assert all(torch.equal(tensor, again[name]) for name, tensor in merged.items())


def test_a_gpu_without_room_says_what_to_change(family, main):
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-6)
    try:
        code, _, complaint = main(
            "fit", "--config", write(configuration(trainer={"accelerator": "gpu", "max_steps": 2})), "--run_dir", "full"
        )
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert code != 0
    assert "its memory is exhausted" in complaint
    assert "Set memory: mapped" in complaint


@pytest.mark.filterwarnings("ignore:.*probably fine-tuned from another base")
def test_models_in_memory_may_be_on_a_gpu():
    def learned(place, accelerator):
        architecture = "BertForSequenceClassification"
        base = build(architecture, "bert", 0, num_labels=3)
        experts = {
            task: near(architecture, "bert", base, seed, num_labels=3).to(place) for seed, task in ((1, "a"), (2, "b"))
        }
        options = {"accelerator": accelerator, "max_steps": 0}
        return Merge(base.to(place), experts, method="task_arithmetic", trainer=options).learn()

    there, here = learned(CUDA, "gpu"), learned(CPU, "cpu")
    for (name, one), other in zip(
        there.module("a").state_dict().items(), here.module("a").state_dict().values(), strict=True
    ):
        assert one.device == CPU, name
        assert torch.equal(one, other), name


def digits_on(device, **how):
    experts, rows = digits_family()
    vectors = task_vectors(experts, experts.shared, device=device, **how)
    shapes = {name: tuple(shape) for name, shape in vectors.shapes.items()}
    return MergedModel(experts, vectors, row_blocks(shapes, 3)), rows


@pytest.mark.parametrize("resident", [True, False])
def test_losses_and_gradient_are_those_of_the_cpu(resident):
    found = {}
    for device in (CUDA, CPU):
        model, rows = digits_on(device, resident=resident)
        assert isinstance(model.vectors, Resident if resident else Pinned) or device == CPU
        work = {task: [Work(own.batch(range(8)), lambda o, b: Entropy()(o, b, None))] for task, own in rows.items()}
        found[device] = execution_of(model).losses_and_gradient(uniform(model, 0.3).to(device), work)
    there, here = found[CUDA], found[CPU]
    assert (there.gradient.cpu() - here.gradient).norm() < 1e-4 * here.gradient.norm()
    for task, loss in there.losses.items():
        assert loss.item() == pytest.approx(here.losses[task].item(), rel=1e-4)


def test_fast_matrix_products_do_not_cost_digits_of_the_merge():
    model, _ = digits_on(CUDA, resident=True)
    coefficients = torch.rand(len(model.grouping), 3, generator=torch.Generator().manual_seed(0))
    exact = model.vectors.combine(coefficients, model.grouping)
    torch.set_float32_matmul_precision("medium")
    try:
        fast = model.vectors.combine(coefficients, model.grouping)
        inner = model.vectors.inner(exact, model.grouping)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert all(torch.equal(exact[name], fast[name]) for name in exact)
    expected = model.vectors.inner(exact, model.grouping)
    assert (inner - expected).norm() < 1e-6 * expected.norm()  # rows of a group are added in any order


def test_learning_follows_the_task_vectors_and_refuses_another_device():
    model, rows = digits_on(CPU, resident=True)
    learning = Learning(torch.optim.Adam, trainer={"max_steps": 2, "enable_progress_bar": False})
    learned = learn(model, Entropy(), Calibration(rows, {}), learning)
    assert learned.coefficients.device == CPU
    other = Learning(torch.optim.Adam, trainer={**learning.trainer, "accelerator": "gpu"})
    with pytest.raises(ConfigError, match="because the task vectors are on cpu, found gpu"):
        learn(model, Entropy(), Calibration(rows, {}), other)


def test_targets_are_those_of_the_cpu():
    settings = TargetSettings(layers=("middle", -1))
    found = {}
    for device in (CUDA, CPU):
        model, rows = digits_on(device, resident=False)
        batch = rows["upright"].batch(range(5))
        outputs = model.expert("upright")({"pixel_values": batch.inputs["pixel_values"].to(device)}, settings.layers)
        found[device] = compute_targets(model, {"upright": rows["upright"]}, settings, 8, None)["upright"](
            batch, outputs
        )
        assert found[device].logits.device == device
    there, here = found[CUDA], found[CPU]
    assert torch.allclose(there.logits.cpu(), here.logits, atol=1e-4)
    for one, other in zip(there.hidden, here.hidden, strict=True):
        assert torch.allclose(one.cpu(), other, atol=1e-2)


def test_the_ring_waits_for_copies_and_for_the_device():
    shapes = {f"p{i}": (64, 1024) for i in range(12)}
    here = random_vectors(shapes, 3)
    there = random_vectors(shapes, 3)
    there.device = CUDA
    there._scratch = there._scratch.to(CUDA)
    pinned = Pinned(there, 2**16)
    (bundle,) = pinned.bundles
    found = torch.empty(3, 12 * 64, 1024, device=CUDA)
    for _, rows, columns, stack in pinned.tiles([bundle]):
        torch.cuda._sleep(200_000)  # the device is behind: a slot that is filled too early would be seen
        found[:, rows, columns] = stack
    assert torch.equal(found.cpu(), torch.cat([here.stack(name) for name in bundle], 1))


def test_task_vectors_are_held_where_they_fit():
    shapes = {"w": (64, 64)}
    source = random_vectors(shapes, 3)
    source.device, source._scratch = CUDA, source._scratch.to(CUDA)
    assert isinstance(hold(source, None, room=10**9), Resident)
    assert isinstance(hold(source, None, room=64), Pinned)
    held = hold(source, True, None)
    assert held.stack("w").device == CUDA
    assert torch.equal(held.stack("w").cpu(), random_vectors(shapes, 3).stack("w"))


def test_modules_that_are_merged_stay_where_they_were():
    base = torch.nn.Linear(2, 2).to(CUDA)
    experts = from_modules(base, {"a": torch.nn.Linear(2, 2).to(CUDA)})
    MergedModel(experts, task_vectors(experts, experts.shared), tensor_wise(experts.shared))
    assert base.weight.device == CUDA
