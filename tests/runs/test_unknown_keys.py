"""Keys that were meant as `class_path` and `init_args` are named, and the rest is judged as if they were right."""

import pytest
from support.complaints import HEAD, complaint


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("optimizer: {class_path: Adam, init_arg: {lr: 1}}", ["optimizer.init_arg: | Did you mean init_args?"]),
        ("optimizer: {init_agrs: {lr: 1}}", ["optimizer.init_agrs: | Did you mean init_args?"]),
        ("optimizer.class_pth: Adam", ["optimizer.class_pth: | Did you mean class_path?"]),
        ("feasible: {class_pat: Box}", ["feasible.class_pat: | Did you mean class_path?"]),
        ("beside: [{class_pth: Wudi}]", ["beside.0.class_pth: | Did you mean class_path?"]),
        ("optimizer: {class_path: SGD, lrr: 1}", ["optimizer.lrr: SGD: | Did you mean lr?"]),
        (
            "optimizer: {class_pth: SGD, init_agrs: {lrr: 1}}",
            [
                "optimizer.class_pth: | Did you mean class_path?",
                "optimizer.init_args.lrr: SGD: | Did you mean lr?",
                "optimizer.init_agrs: | Did you mean init_args?",
            ],
        ),
        (
            "centre: {class_pth: Wudi, init_args: {ridg: 1}}",
            ["centre.class_pth: | Did you mean class_path?", "centre.init_args.ridg: Wudi: | Did you mean ridge?"],
        ),
    ],
)
def test_a_misspelt_choice_of_a_class_is_named(text, words):
    expected = [f"merge.yaml:5: {word.replace('|', 'there is no such key.')}" for word in words]
    assert sorted(complaint(HEAD + text).splitlines()) == sorted(expected)
