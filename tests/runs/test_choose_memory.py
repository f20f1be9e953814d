"""memory: what each execution takes, which one is chosen, what is refused, and the same coefficients by all of them."""

import io
import re
from dataclasses import replace

import pytest
import torch
import yaml
from rich.console import Console
from support.families import configuration, save_text_family
from support.streamed import near
from torch import nn

from adamerge import ConfigError, Expert, Merge
from adamerge.data.rows import Subset
from adamerge.experts.from_modules import from_modules
from adamerge.merging.choose_execution import Memory, choose
from adamerge.merging.mapped_task_vectors import Mapped
from adamerge.merging.merged_model import MergedModel
from adamerge.merging.saved_bytes import Saved
from adamerge.runs.check import check
from adamerge.runs.choose_memory import execution_for
from adamerge.runs.fit import fit
from adamerge.runs.learn_merge import open_inputs
from adamerge.runs.read_config import merge_config
from adamerge.storage.memory import anonymous_memory

FEW = {"trainer": {"max_steps": 2, "accelerator": "cpu"}, "data": {"batch_size": 4, "micro_batch": 2}}


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return save_text_family(tmp_path_factory.mktemp("family"), layers=2)


@pytest.fixture(autouse=True)
def _inside(family, monkeypatch):
    monkeypatch.chdir(family)


def printed(job, **changes):
    out, written = io.StringIO(), configuration(**FEW, **changes)
    config, console = merge_config(written), Console(file=out, width=1000)
    result = fit(config, yaml.safe_dump(written), console=console) if job is fit else job(config, console)
    return result, out.getvalue()


def test_a_whole_run_is_streamed(tmp_path, monkeypatch):
    merged = []
    combine = Mapped.combine

    def watched(self, coefficients, grouping, names=None):
        merged.append(names)
        return combine(self, coefficients, grouping, names)

    monkeypatch.setattr(Mapped, "combine", watched)
    placed = []
    monkeypatch.setattr(MergedModel, "expert", lambda self, task: placed.append(task))
    finished, text = printed(fit, memory="streamed", run_dir=str(tmp_path / "run"), objective="LogitAlignment")
    assert "memory: streamed" in text
    assert finished.learned.history
    assert merged
    assert None not in merged  # that would be all parameters at once
    assert not placed  # nor is any expert in memory as a whole


def test_check_prints_what_each_execution_takes():
    problems, text = printed(check, memory="streamed", centre="Wudi")
    assert not problems
    found = re.search(r"memory: streamed (\d+) MB .*libraries and rows (\d+) MB; before that, transforms \d+ MB", text)
    assert found
    assert anonymous_memory() / 2e6 < int(found[2]) <= int(found[1])
    for other in ("resident", "mapped"):
        assert f"memory: otherwise {other}" in text


def test_transforms_that_cannot_be_tried_are_said():
    """Wudi's work is known, and that of Fisher, which needs rows, is not."""
    config = merge_config(configuration(**FEW, run_dir="unused", memory="mapped", task_vectors="Fisher", centre="Wudi"))
    experts = open_inputs(config, None, Console(quiet=True)).experts
    need = execution_for(config, experts, experts.shared, {}, torch.device("cpu")).need
    assert re.search(r"; before that, transforms \d+ MB and unknown\)", str(need))


def test_the_task_that_takes_most_counts_wherever_it_stands():
    config = merge_config(configuration(**FEW, run_dir="unused"))
    opened = open_inputs(config, None, Console(quiet=True))
    rows, names = opened.data.calibration, opened.experts.shared
    few = {"mood": Subset(rows["mood"], [0]), "topic": rows["topic"]}  # of one row at a time, and of two
    needs = [
        execution_for(config, opened.experts, names, order, torch.device("cpu")).need.activations
        for order in (few, dict(reversed(few.items())), {"mood": few["mood"]})
    ]
    assert needs[0] == needs[1] > needs[2] > 0


def test_gradients_count_where_something_is_learned_and_models_where_they_are_run():
    config = merge_config(configuration(**FEW, run_dir="unused", memory="mapped"))
    opened = open_inputs(config, None, Console(quiet=True))
    names, sizes = opened.experts.shared, opened.experts.base.shape
    merged = 4 * sum(sizes(name).numel() for name in names)
    largest = 4 * max(sizes(name).numel() for name in names)
    heads = 4 * sum(e.weights.shape(n).numel() for e in opened.experts.models.values() for n in e.whole_head)
    still = replace(config, trainer=replace(config.trainer, max_steps=0))
    alone = replace(still, models=[replace(model, evaluation=None) for model in config.models])
    found = [
        execution_for(one, opened.experts, names, rows, torch.device("cpu")).need
        for one, rows in [(config, opened.data.calibration), (still, {}), (alone, {})]
    ]
    assert [need.parameters for need in found] == [2 * merged + largest + heads, merged + heads, largest]
    assert ["parameters and gradients" in str(need) for need in found] == [True, False, False]


class Words(nn.Module):
    def __init__(self, tied):
        super().__init__()
        self.words, self.head = nn.Embedding(50, 4), nn.Linear(4, 50, bias=False)
        if tied:
            self.head.weight = self.words.weight


@pytest.mark.parametrize(("tied", "most"), [(False, 1), (True, 3)])
def test_a_parameter_that_a_pass_uses_twice_has_two_gradients_and_their_sum(tied, most):
    """As measured: `backward` of a second pass takes 1.0 and 3.0 times the parameter."""
    experts = from_modules(Words(tied), {"a": Words(tied)})
    need = choose(Memory("mapped"), experts, experts.shared, 1, torch.float32, 10**9, Saved(0, 0)).need
    assert need.parameters == 4 * (2 * sum(own.numel() for own in Words(tied).parameters()) + most * 200)


def test_check_prints_what_each_of_several_processes_takes():
    few = {**FEW["trainer"], "devices": 2, "strategy": "fsdp2"}
    out = io.StringIO()
    assert not check(merge_config(configuration(**{**FEW, "trainer": few})), Console(file=out, width=1000))
    assert "memory: to learn, each of 2 processes takes fsdp2" in out.getvalue()


def test_more_than_is_free_is_refused_by_check_and_fit(tmp_path, monkeypatch):
    """A control group of 700 MB killed what `check` had found no problem in."""
    tried = []
    monkeypatch.setattr("adamerge.runs.choose_memory.free_bytes", lambda device: 10**5)
    monkeypatch.setattr("adamerge.runs.load_rows.try_backward", lambda *given: tried.append(given))
    run = str(tmp_path / "run")
    (problem,), _ = printed(check, run_dir=run)
    assert re.match(
        r"memory: expected at least \d+ MB.*, found \d+ MB of this process and 0 MB that the device", problem
    )
    with pytest.raises(ConfigError, match=r"memory: expected at least .* or set memory\.limit"):
        printed(fit, run_dir=run)
    assert not (tmp_path / "run").exists()
    assert not tried  # which takes memory itself, and was killed before it was compared
    assert not printed(check, run_dir=run, memory={"limit": "20GB"})[0]  # the user knows better
    assert tried


def test_a_limit_below_what_is_needed_is_one_problem():
    problems, _ = printed(check, memory={"limit": "100kB"})
    (problem,) = problems
    assert "memory.limit: expected at least" in problem
    assert "The smallest execution is" in problem


class Net(nn.Module):
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(8))
        self.head = nn.Linear(64, 3)

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.head(x)


ROWS = torch.randn(16, 64, generator=torch.Generator().manual_seed(1))


def learned(memory, make=Net):
    base = make(0)
    experts = [Expert(near(base, make, seed), task=f"t{seed}", calibration=ROWS) for seed in (1, 2)]
    merge = Merge(base, experts, method="adamerging", memory=memory, trainer={"max_steps": 2})
    return merge.learn().coefficients


def test_python_takes_it_too():
    for memory in ("streamed", {"mode": "streamed", "blocks": ["layers"]}, Memory("streamed", "4GB")):
        torch.testing.assert_close(learned(memory), learned("mapped"), rtol=1e-4, atol=1e-5)


def test_blocks_that_are_not_there_are_refused():
    with pytest.raises(ConfigError, match=r"memory.blocks: expected the path.*'stages'.*layers"):
        learned({"mode": "streamed", "blocks": ["stages"]})


def test_a_model_without_lists_is_mapped_and_told_so():
    def plain(seed):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 3))

    assert torch.equal(learned("streamed", plain), learned("mapped", plain))
    torch.testing.assert_close(learned({"mode": "streamed", "blocks": ["0", "2"]}, plain), learned("mapped", plain))


SIZES = {"8GB": 8 * 10**9, "500 mb": 5 * 10**8, "2GiB": 2**31, 1000: 1000, "1.5k": 1500}


@pytest.mark.parametrize("written", SIZES)
def test_sizes(written):
    assert Memory(limit=written).bytes == SIZES[written]


@pytest.mark.parametrize("written", ["much", "-3GB", 0, -1, "8 GBs", ""])
def test_what_is_no_size_is_refused(written):
    with pytest.raises(ConfigError, match=r"memory.limit: expected a size"):
        Memory(limit=written)
