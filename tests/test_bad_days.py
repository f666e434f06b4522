"""Killed processes, full disks, two writers, damaged files: a clear error or the right result."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import SIDE

import adlearn
from adlearn.data.base import AnomalyDataset, Sample
from adlearn.errors import DataError, StorageError, WeightsError
from adlearn.features import FeatureExtractor, FeatureStore
from adlearn.files import storage_errors, write_bytes
from adlearn.results import load
from adlearn.weights import packaged_state, packaged_weights

if "fork" not in multiprocessing.get_all_start_methods():
    pytest.skip("these tests fork", allow_module_level=True)


def start(function, *arguments):
    """Run `function` in a process of its own; forked, because importing PyTorch anew takes seconds."""
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    return process


def end(process):
    """Its exit code: minus the signal's number when it was killed."""
    process.join(120)
    return process.exitcode


def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def extractor():
    return FeatureExtractor(layers=(4,))


@pytest.fixture
def dataset(tiny):
    return tiny.train.take(6)


def leftovers(folder):
    return [p for p in Path(folder).rglob("*") if p.name.startswith(".part-")]


def assert_right(extractor, dataset):
    found, expected = extractor.extract(dataset), extractor.extract(dataset, cache=False)
    for name in expected:
        scale = expected[name].abs().max().item()
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-5 * scale)


def dying_at(number, act):
    """A function that acts as `act`; at call `number` it writes half of what it is given, then dies."""
    calls = []

    def function(*arguments):
        calls.append(arguments)
        if len(calls) == number:
            if act is Path.write_bytes:
                act(arguments[0], arguments[1][: len(arguments[1]) // 2])
            die()
        return act(*arguments)

    return function


def extract_and_die_writing(extractor, dataset):
    Path.write_bytes = dying_at(3, Path.write_bytes)
    extractor.extract(dataset)


def extract_and_die_renaming(extractor, dataset):
    os.replace = dying_at(3, os.replace)
    extractor.extract(dataset)


@pytest.mark.parametrize("function", [extract_and_die_writing, extract_and_die_renaming])
def test_a_cache_whose_writer_was_killed_gives_right_features(function, extractor, dataset, own_cache):
    assert end(start(function, extractor, dataset)) == -signal.SIGKILL
    store = FeatureStore(extractor, dataset)
    assert [store.read(i) is not None for i in range(6)] == [True, True, False, False, False, False]
    assert len(leftovers(own_cache)) == 1
    assert_right(extractor, dataset)


def rewrite(extractor, dataset):
    """Fill the cache again and again; what is there must be whole at any time."""
    store = FeatureStore(extractor, dataset)
    expected = extractor.extract(dataset, cache=False)[extractor.layers[0]]
    for _ in range(30):
        for index, features in enumerate(expected):
            store.write(index, {extractor.layers[0]: features})
            assert torch.equal(store.read(index)[extractor.layers[0]], features)


def test_two_processes_fill_one_cache(extractor, dataset, own_cache):
    both = [start(rewrite, extractor, dataset) for _ in range(2)]
    assert [end(process) for process in both] == [0, 0]
    assert not leftovers(own_cache)
    assert_right(extractor, dataset)


def test_two_processes_extract_at_once(extractor, dataset, own_cache):
    both = [start(assert_right, extractor, dataset) for _ in range(2)]
    assert [end(process) for process in both] == [0, 0]


# In a process that may mount: one folder on a disk that is full, one on a disk that is read-only.
MOUNTS = """
mkdir full closed && mount -t tmpfs -o size=48k tmpfs full && mount -t tmpfs -o ro tmpfs closed && exec "$@"
"""
WRITE = """
import os
from pathlib import Path
import torch
from adlearn.data.base import AnomalyDataset, Sample
from adlearn.detector import Detector
from adlearn.errors import StorageError
from adlearn.features import FeatureExtractor
from adlearn.results import write_records
from adlearn.training import tensor_batches, train

torch.set_num_threads(1)
extractor = FeatureExtractor(layers=(4,))
dataset = AnomalyDataset("tiny", [Sample(path, 0) for path in Path("images").glob("*.png")], size=64)

class Big(Detector):
    def __init__(self):
        super().__init__()
        self.register_buffer("memory", torch.rand(200_000))

def fit(checkpoint):
    module = torch.nn.Linear(500, 500)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    batches = tensor_batches(torch.rand(2, 500), batch_size=2)
    loss = lambda batch: module(batch[0]).mean()
    train(module, loss, batches, epochs=1, optimizer=optimizer, checkpoint=checkpoint)

for folder, expected in ((Path("full"), "disk is full"), (Path("closed"), "read-only")):
    os.environ["ADLEARN_CACHE"] = str(folder / "cache")
    rows = [{"method": "x" * 100_000, "dataset": "y"}]
    for attempt in (
        lambda: extractor.extract(dataset),
        lambda: Big().save(folder / "d.pt"),
        lambda: write_records(folder / "r.json", "02", "cpu", rows),
        lambda: fit(folder / "c.pt"),
    ):
        try:
            attempt()
        except StorageError as error:
            assert expected in str(error) and str(folder) in str(error), error
        else:
            raise SystemExit("no error")
        assert not list(folder.rglob(".part-*")), "something half-written stayed"
"""


def test_a_real_disk_that_takes_nothing_is_named(tiny, tmp_path):
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", MOUNTS, "sh"]
    probe = [*command, "rmdir", "nothing"]
    if shutil.which("unshare") is None or "nothing" not in _errors(probe, tmp_path / "probe"):
        pytest.skip("mounting a file system of one's own is not allowed here")
    work = tmp_path / "work"
    shutil.copytree(tiny.train.samples[0].path.parent, work / "images")
    assert _errors([*command, sys.executable, "-c", WRITE], work) == ""


def _errors(command, folder):
    """What `command`, run in `folder`, wrote to its error output."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    return done.stderr or str(done.returncode or "")


def test_the_device_that_is_always_full_is_named():
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    with pytest.raises(StorageError, match="disk is full"), storage_errors(Path("/dev/full")):
        Path("/dev/full").write_bytes(b"x" * 100_000)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    with pytest.raises(StorageError, match="permission denied"):
        write_bytes(folder / "a.bin", b"x")


def test_a_file_where_a_folder_should_be_is_an_error_not_a_wrong_result(extractor, dataset, own_cache):
    own_cache.write_text("not a folder")
    with pytest.raises(OSError, match="cache"):
        extractor.extract(dataset)


def test_a_full_disk_does_not_spoil_what_was_cached(extractor, dataset, own_cache, monkeypatch):
    extractor.extract(dataset.take(3))

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(StorageError, match="disk is full"):
            extractor.extract(dataset)
        extractor.extract(dataset.take(3))
    assert not leftovers(own_cache)
    assert_right(extractor, dataset)


def test_corrupted_weights_are_refused_before_anything_is_computed(tmp_path, monkeypatch):
    content = bytearray(packaged_weights().read_bytes())
    content[1000] ^= 255
    (tmp_path / "weights.pth").write_bytes(content)
    monkeypatch.setattr("adlearn.weights.packaged_weights", lambda _: tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"weights\.pth is damaged.*reinstall"):
        FeatureExtractor()
    (tmp_path / "cut.pth").write_bytes(content[:-1])
    with pytest.raises(WeightsError, match=r"cut\.pth is damaged"):
        packaged_state(tmp_path / "cut.pth")


def record(writer, dies_at=None):
    run = adlearn.start("02_gaussian")
    for step in range(30):
        if step == dies_at:
            os.replace = die
        run.record(f"method {step}", "x", {"writer": writer})


def test_two_notebooks_at_once_leave_the_whole_results_of_one(tmp_path):
    both = [start(record, writer) for writer in (0.0, 1.0)]
    assert [end(process) for process in both] == [0, 0]
    folder = tmp_path / "runs" / "results"
    assert [p.name for p in folder.iterdir()] == ["02_gaussian.json"]
    frame = load(folder)
    assert len(frame) == 30 and frame["writer"].nunique() == 1


def test_a_killed_recorder_leaves_the_records_before(tmp_path):
    assert end(start(record, 0.0, 3)) == -signal.SIGKILL
    folder = tmp_path / "runs" / "results"
    assert len(leftovers(folder)) == 1 and len(load(folder)) == 3


def test_an_image_damaged_after_caching_is_noticed(extractor, dataset, own_cache, tmp_path):
    paths = [Path(shutil.copy(sample.path, tmp_path)) for sample in dataset.samples]
    own = AnomalyDataset("own", [Sample(path, 0) for path in paths], SIDE)
    extractor.extract(own)
    paths[2].write_bytes(paths[2].read_bytes()[:200])
    with pytest.raises(DataError, match=paths[2].name):
        extractor.extract(own)
