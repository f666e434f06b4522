"""What every test gets: caches and results of its own, never the reader's; and a tiny drawn dataset."""

import pytest
import torch
from tiny import draw_benchmark

torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def _one_thread(request):
    """Images are tiny here: a second thread gains nothing, and waits when the machine is busy.

    So methods that ask for two get one, except where this is what is tested.
    """
    with pytest.MonkeyPatch.context() as patch:
        if request.module.__name__ != "test_threads":
            patch.setattr(torch, "set_num_threads", lambda count: None)
        yield


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory):
    """Features are computed once for the whole session, apart from the reader's cache."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _private_folders(monkeypatch, session_cache, tmp_path):
    monkeypatch.setenv("ADLEARN_CACHE", str(session_cache))
    monkeypatch.setenv("ADLEARN_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("ADLEARN_PROGRESS", "0")
    for name in ("ADLEARN_RESULTS", "ADLEARN_DRY_RUN", "ADLEARN_PROFILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def own_cache(monkeypatch, tmp_path):
    """An empty feature cache for this test alone."""
    monkeypatch.setenv("ADLEARN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """64 px drawn stripes: a `Benchmark` of 8 train, 3 validation, 4 + 4 test images with masks."""
    return draw_benchmark(tmp_path_factory.mktemp("tiny"))
