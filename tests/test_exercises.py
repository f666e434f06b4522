import importlib
import pkgutil
import re
import sys
import types

import pytest

from adlearn import exercises
from adlearn.errors import DataError
from adlearn.exercises import Wrong, check, exercise, require


@pytest.fixture
def notebook(monkeypatch):
    """Notebook 98 with exercises 98.1 and 98.2, for this test alone."""
    monkeypatch.setattr(exercises, "_CHECKS", dict(exercises._CHECKS))
    monkeypatch.setitem(sys.modules, "adlearn.exercises.nb98", types.ModuleType("nb98"))

    @exercise("98.1")
    def _even(answer):
        """an even number"""
        require(isinstance(answer, int), "a whole number is asked for")
        require(answer % 2 == 0, "it leaves a rest when halved")

    @exercise("98.2")
    def _broken(answer):
        """never asked"""
        raise KeyError("a mistake in the check itself")


def test_a_right_answer_is_confirmed_with_what_it_shows(notebook, capsys):
    assert check("98.1", 4) is True
    assert capsys.readouterr().out == "✓ 98.1: an even number\n"


@pytest.mark.parametrize(("answer", "hint"), [(3, "leaves a rest"), ("4", "whole number")])
def test_a_wrong_answer_gets_the_first_hint(notebook, answer, hint):
    with pytest.raises(Wrong, match=f"✗ 98.1: .*{hint}"):
        check("98.1", answer)


def test_no_answer_yet_is_only_noted(notebook, capsys):
    assert check("98.1", ...) is False
    assert capsys.readouterr().out.startswith("○ 98.1")


def test_an_unknown_exercise_is_refused_with_those_of_its_notebook(notebook):
    with pytest.raises(DataError, match=r"no exercise '98\.9'; there are .*98\.1, 98\.2"):
        check("98.9", 1)


@pytest.mark.parametrize("number", ["97.1", "", "x"])
def test_a_notebook_without_exercises_is_refused(number):
    with pytest.raises(DataError, match="no exercises for notebook"):
        check(number, 1)


def test_a_mistake_in_a_check_is_not_taken_for_a_wrong_answer(notebook):
    with pytest.raises(KeyError):
        check("98.2", 1)


def test_a_missing_import_in_a_check_is_not_taken_for_a_missing_notebook(monkeypatch):
    def fail(name):
        raise ModuleNotFoundError("No module named 'something'", name="something")

    monkeypatch.setattr(exercises.importlib, "import_module", fail)
    with pytest.raises(ModuleNotFoundError, match="something"):
        check("98.1", 1)


def test_every_check_has_a_number_of_its_notebook_and_says_what_it_shows():
    for module in pkgutil.iter_modules(exercises.__path__):
        importlib.import_module(f"adlearn.exercises.{module.name}")
    for number, function in exercises._CHECKS.items():
        assert re.fullmatch(r"\d\d\.\d", number) and function.__doc__
        assert function.__module__ == f"adlearn.exercises.nb{number[:2]}"
