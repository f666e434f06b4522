"""What `make test` leaves to the night."""

from adlearn import paths
from adlearn.notebooks import numbered, suite


def test_only_notebooks_that_exist_are_left_to_the_night():
    there = {path.stem for path in numbered(paths.root() / "notebooks")}
    assert set(suite.NIGHTLY) < there


def test_at_night_nothing_is_left_out(monkeypatch):
    monkeypatch.delenv("ADLEARN_NIGHTLY", raising=False)
    assert suite.too_heavy() == suite.NIGHTLY
    monkeypatch.setenv("ADLEARN_NIGHTLY", "1")
    assert suite.too_heavy() == ()
