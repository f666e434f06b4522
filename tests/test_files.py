import errno
import os
import stat

import pytest
import torch

from adlearn import files
from adlearn.errors import StorageError
from adlearn.files import atomic_path, storage_errors, write_bytes, write_text, write_torch


def test_text_bytes_and_tensors_are_written_whole(tmp_path):
    write_text(tmp_path / "deep" / "er" / "a.txt", "grün\n")
    write_bytes(tmp_path / "b.bin", b"\x00\xff")
    write_torch(tmp_path / "c.pt", {"x": torch.arange(3), "y": (1, "z")})
    assert (tmp_path / "deep" / "er" / "a.txt").read_bytes() == "grün\n".encode()
    assert (tmp_path / "b.bin").read_bytes() == b"\x00\xff"
    loaded = torch.load(tmp_path / "c.pt", weights_only=True)
    assert loaded["x"].tolist() == [0, 1, 2] and loaded["y"] == (1, "z")


def test_an_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_path(path) as temporary:
        temporary.write_text("ne")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent and temporary.suffix == path.suffix
    assert path.read_text() == "ne"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_nothing_else(error, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_others_may_read_what_was_written(tmp_path):
    write_text(tmp_path / "a.txt", "a")
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o644


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission denied"),
        (errno.EPERM, "permission denied"),
    ],
)
@pytest.mark.parametrize("call", ["tempfile.mkstemp", "os.replace", "os.chmod"])
def test_the_systems_refusal_becomes_advice(number, text, call, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    module, name = call.split(".")
    monkeypatch.setattr(getattr(files, module), name, refuse)
    with pytest.raises(StorageError, match=rf"cannot write .*a\.txt: .*{text}.*ADLEARN_CACHE") as caught:
        write_text(tmp_path / "a.txt", "content")
    assert caught.value.errno == number
    assert os.listdir(tmp_path) == []


def test_other_errors_are_left_alone(tmp_path):
    with pytest.raises(FileNotFoundError), storage_errors(tmp_path / "a.txt"):
        raise FileNotFoundError(errno.ENOENT, "no such file")
