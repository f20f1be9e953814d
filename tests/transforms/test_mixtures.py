"""Methods of matrices see the matrices of a mixture's experts one by one, as outputs × inputs."""

import pytest
import torch
from support.mixtures import mixture
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.models.dbrx.configuration_dbrx import DbrxFFNConfig
from transformers.models.dbrx.modeling_dbrx import DbrxExperts

from adamerge.experts.matrix_layouts import Layout, layouts_of
from adamerge.transforms.act_mat import ActMat
from adamerge.transforms.dc_merge import DcMerge
from adamerge.transforms.doge import Doge
from adamerge.transforms.isotropic import Isotropic
from adamerge.transforms.mixtures import by_matrix
from adamerge.transforms.spectral_wudi import Aswudi, Swudi
from adamerge.transforms.task_singular_vectors import TaskSingularVectors
from adamerge.transforms.ties import Ties
from adamerge.transforms.wudi import Wudi

METHODS = [
    *(Isotropic(), TaskSingularVectors(), Wudi(), Doge(exclude=(), scope="tensor")),
    *(Swudi(), Aswudi(), ActMat(), DcMerge()),
]
NAME = "model.layers.0.mlp.experts.gate_up_proj"
BY_HAND = {
    Layout(True): lambda stack: [stack[:, i] for i in range(4)],
    Layout(True, True): lambda stack: [stack[:, i].mT for i in range(4)],
    Layout(True, False, 2): lambda stack: [half for i in range(4) for half in (stack[:, i, :3], stack[:, i, 3:])],
    Layout(True, True, 2): lambda stack: [
        half.mT for i in range(4) for half in (stack[:, i, :, :4], stack[:, i, :, 4:])
    ],
    Layout(True, True, 2, True): lambda stack: [
        half.mT for i in range(4) for half in (stack[:, i, :, 0::2], stack[:, i, :, 1::2])
    ],
}  # fmt: skip


def planned(method, layouts, stack):
    return by_matrix(method, layouts).plan(lambda: iter([(NAME, stack)]))


@pytest.mark.parametrize("layout", BY_HAND, ids=str)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.title)
def test_each_matrix_of_a_stack_is_transformed_as_if_it_were_alone(method, layout):
    torch.manual_seed(0)
    stack = torch.randn(2, 4, 6, 8)  # (K, experts of the mixture, …)
    found = planned(method, {NAME: layout}, stack)(NAME, stack)
    pairs = zip(BY_HAND[layout](stack), BY_HAND[layout](found), strict=True)
    for matrix, merged in pairs:
        alone = planned(method, {}, matrix)("model.layers.0.mlp.down_proj.weight", matrix.contiguous())
        torch.testing.assert_close(merged, alone)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.title)
def test_a_convolution_is_one_matrix(method):
    torch.manual_seed(0)
    stack = torch.randn(2, 4, 6, 3)
    flat = planned(method, {}, stack.flatten(2))("mlp.weight", stack.flatten(2))
    torch.testing.assert_close(planned(method, {}, stack)("conv.weight", stack), flat.reshape(-1, 4, 6, 3))


def test_biases_of_experts_are_vectors():
    stack = torch.randn(2, 4, 6)
    found = planned(Wudi(), {NAME: Layout(True)}, stack)(NAME, stack)
    torch.testing.assert_close(found, stack.mean(0, keepdim=True))


def test_methods_of_single_numbers_are_left_alone():
    assert by_matrix(Ties(0.2), {NAME: Layout(True)}) == Ties(0.2)


TRANSPOSED = {"GptOssForCausalLM": True, "Llama4ForCausalLM": True}


@pytest.mark.parametrize(
    "architecture", ["MixtralForCausalLM", "GraniteMoeForCausalLM", "GptOssForCausalLM", "Llama4ForCausalLM"]
)
def test_gate_up_and_down_of_a_mixture_are_what_the_model_multiplies_by(architecture):
    """One expert, run by the module itself, is gate, up and down as the layouts split them."""
    model = mixture(architecture, 0)
    path, experts = next(
        (p, m) for p, m in model.named_modules() if hasattr(m, "gate_up_proj") and m.gate_up_proj.ndim == 3
    )
    layouts = layouts_of(model)
    gate, up, *_ = layouts[f"{path}.gate_up_proj"].split(experts.gate_up_proj.detach()[None])
    down, *_ = layouts[f"{path}.down_proj"].split(experts.down_proj.detach()[None])
    hidden = model.config.hidden_size
    assert gate.shape == up.shape == (1, gate.shape[1], hidden)
    assert down.shape == (1, hidden, gate.shape[1])
    assert layouts[f"{path}.down_proj"].transposed == TRANSPOSED.get(architecture, False)
    row = torch.randn(1, hidden) * 0.1
    if architecture == "Llama4ForCausalLM":
        found = experts(row.repeat(4, 1))[0]
        expected = (up[0] @ row[0] * torch.nn.functional.silu(gate[0] @ row[0])) @ down[0].mT
    else:
        index, weight = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1)
        found = experts(row, index, weight)[0].detach()
        gates, ups = gate[0] @ row[0], up[0] @ row[0]
        if architecture == "GptOssForCausalLM":
            biases = layouts[f"{path}.gate_up_proj_bias"].split(experts.gate_up_proj_bias.detach()[None])
            gates, ups = gates + biases[0][0], ups + biases[1][0]
            expected = ((ups + 1) * gates * torch.sigmoid(gates * experts.alpha)) @ down[0].mT
            expected = expected + experts.down_proj_bias[0].detach()
        else:
            expected = (torch.nn.functional.silu(gates) * ups) @ down[0].mT
    torch.testing.assert_close(found, expected.detach())


def test_linear_layers_of_gpt2_are_transposed():
    model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=20, n_positions=8))
    found = layouts_of(model)
    assert set(found) == {
        f"transformer.h.0.{name}.weight" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }
    assert set(found.values()) == {Layout(transposed=True)}


def test_matrices_of_dbrx_follow_each_other():
    """One expert, run by the module itself, is what the layouts split off."""
    experts = DbrxExperts(DbrxFFNConfig(hidden_size=6, ffn_hidden_size=5, moe_num_experts=4))
    torch.manual_seed(0)
    for parameter in experts.parameters():
        torch.nn.init.normal_(parameter)
    layouts = layouts_of(experts)
    gates, ups, downs = (layouts[f"mlp.{n}"].split(getattr(experts.mlp, n).detach()[None]) for n in ("w1", "v1", "w2"))
    row = torch.randn(1, 6)
    for i, (gate, up, down) in enumerate(zip(gates, ups, downs, strict=True)):
        found = experts(row, torch.tensor([[i]]), torch.ones(1, 1)).detach()
        torch.testing.assert_close(
            found.flatten(), down[0] @ (torch.nn.functional.silu(gate[0] @ row[0]) * (up[0] @ row[0]))
        )
