"""The options to blame are found by trying, whatever a class says."""

import pytest
from support.releases import needs_late_hints
from torch.optim import SGD, Adam, RMSprop, SparseAdam
from torch.optim.lr_scheduler import ConstantLR, ExponentialLR, LambdaLR, MultiStepLR, PolynomialLR, StepLR

from adamerge.runs.construct import Options, Refusal, refusals
from adamerge.runs.trials import on_trial
from adamerge.runs.type_hints import options
from adamerge.types import ConfigError


class Wordless:
    """Says the same of every mistake, in words that name none of its options, and in no fixed order."""

    def __init__(self, size: float, rate: float = 1.0, decay: float = 0.0, fast: bool = False) -> None:
        if fast and decay:
            raise ValueError("fast rate is for decay of nothing")
        if rate < 0:
            raise ValueError("the size is wrong")
        if decay < 0:
            raise ValueError("the rate is wrong")
        if size <= 0:
            raise ValueError("decay")


BLAMED = [
    ({"size": 1.0}, []),
    ({"size": 1.0, "rate": -1.0}, ["rate"]),
    ({"size": 1.0, "rate": -1.0, "decay": -1.0}, ["rate", "decay"]),
    ({"size": 0.0, "rate": -1.0, "decay": -1.0}, ["rate", "decay", "size"]),
    ({"size": 0.0}, ["size"]),
    ({"size": 1.0, "decay": 1.0, "fast": True}, ["decay"]),
    ({"size": 1.0, "rate": -1.0, "fast": False}, ["rate"]),
]


@pytest.mark.parametrize(("values", "names"), BLAMED)
def test_options_are_blamed_by_trial(values, names):
    found = list(refusals(Wordless, options(Wordless), Options(values), "Wordless"))
    assert [refusal.name for refusal in found] == names
    for refusal in found:
        assert f"Wordless accepts, found {values[refusal.name]}" in refusal.problem
        assert "; Wordless says: " in refusal.problem
        assert ". Correct it" in refusal.problem


def test_options_that_exclude_each_other_are_named_together():
    (found,) = refusals(Wordless, options(Wordless), Options({"size": 1.0, "decay": 1.0, "fast": True}), "Wordless")
    assert "found 1.0, beside fast: true; " in found.problem


def test_what_is_refused_whatever_the_options_are_is_blamed_on_none():
    class Away:
        def __init__(self, rate: float = 1.0, decay: float = 0.0) -> None:
            raise RuntimeError("no server")  # libraries raise anything, not ValueErrors alone

    (found,) = refusals(Away, options(Away), Options({"rate": 2.0, "decay": 1.0}), "Away")
    problem = "expected options that Away accepts, found others; Away says: no server. Correct them."
    assert found == Refusal(None, problem)


def test_an_option_without_a_usable_value_may_have_been_what_another_needs():
    class Needs:
        def __init__(self, momentum: float = 0.0, nesterov: bool = False) -> None:
            if nesterov and not momentum:
                raise ValueError("no")

    known = options(Needs)
    assert [one.name for one in refusals(Needs, known, Options({"nesterov": True}))] == ["nesterov"]
    assert not list(refusals(Needs, known, Options({"nesterov": True}, frozenset({"momentum"}))))


def test_words_of_this_package_stand_as_they_are():
    def make(rate: float = 1.0) -> None:
        raise ConfigError(f"here.rate: expected another rate, found {rate}.")

    (found,) = refusals(make, options(Wordless), Options({"rate": 2.0}))
    assert found == Refusal("rate", "expected another rate, found 2.0.")


TRIED = [
    (Adam, {"lr": 0.1}, []),
    (SGD, {"momentum": 0.9, "nesterov": True}, []),
    (Adam, {"differentiable": True}, ["differentiable"]),
    (RMSprop, {"alpha": 1e6}, ["alpha"]),
    (SparseAdam, {}, [None]),
    (StepLR, {"step_size": 1}, []),
    (StepLR, {"step_size": 1, "last_epoch": 3}, ["last_epoch"]),
    (ExponentialLR, {"gamma": -1.0}, ["gamma"]),
    (PolynomialLR, {"power": -1.0}, ["power"]),
    (ConstantLR, {"factor": 0.5, "last_epoch": 0}, ["last_epoch"]),
]


@pytest.mark.parametrize(("cls", "values", "names"), TRIED)
def test_what_an_optimiser_or_scheduler_refuses_only_in_a_step_is_refused(cls, values, names):
    known = options(cls, called_later=True)
    found = list(refusals(on_trial(cls), known, Options(values), cls.__name__))
    assert [refusal.name for refusal in found] == names
    assert all(f"; {cls.__name__} says: " in refusal.problem for refusal in found)


@needs_late_hints
@pytest.mark.parametrize("cls", [MultiStepLR, LambdaLR])
def test_hints_that_torch_imports_for_type_checkers_alone_are_read(cls):
    assert {option.hint for option in options(cls, called_later=True).values()}.isdisjoint({object})
