"""Imports without the search for garbage, which goes on as it was."""

import gc
from types import SimpleNamespace

import pytest

import adamerge
from adamerge.imports import quick_imports


@pytest.fixture(params=[True, False])
def enabled(request):
    """Whether garbage is sought; afterwards it is sought as before."""
    before = gc.isenabled()
    gc.enable() if request.param else gc.disable()
    yield request.param
    gc.enable() if before else gc.disable()


def fail():
    with quick_imports():
        assert not gc.isenabled()
        raise ImportError("absent")


def test_the_search_for_garbage_goes_on_as_it_was_also_after_a_failure(enabled):
    with pytest.raises(ImportError, match="absent"):
        fail()
    assert gc.isenabled() == enabled


def test_a_public_name_is_imported_without_it(enabled, monkeypatch):
    monkeypatch.setattr("importlib.import_module", lambda module: SimpleNamespace(Simplex=gc.isenabled()))
    former = vars(adamerge).pop("Simplex", None)
    try:
        assert adamerge.Simplex is False
    finally:
        vars(adamerge).pop("Simplex", None)
        vars(adamerge).update({} if former is None else {"Simplex": former})
    assert gc.isenabled() == enabled
