import numpy as np
import pytest
from PIL import Image

from adlearn.data import implanted
from adlearn.data.elpv import elpv
from adlearn.errors import DataError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("implanted")


@pytest.fixture(scope="module")
def bench(folder):
    return implanted.benchmark("mono", size=64, folder=folder)


def cells(count: int) -> list[np.ndarray]:
    samples = elpv("poly").train.samples[:count]
    return [np.asarray(Image.open(s.path).convert("L")) for s in samples]


@pytest.mark.parametrize("kind", implanted.KINDS)
def test_masks_are_exactly_where_the_cell_changed(kind):
    for number, cell in enumerate(cells(6)):
        image, mask = implanted.implant(cell, kind, np.random.default_rng(number))
        change = np.abs(image.astype(int) - cell)
        assert image.shape == cell.shape and 20 < mask.sum() < 0.4 * mask.size
        assert (change[~mask] == 0).all()
        assert (change[mask] > implanted.TOLERANCE).mean() > 0.7


@pytest.mark.parametrize("kind", implanted.KINDS)
def test_defects_take_light_away_and_never_add_any(kind):
    cell = cells(1)[0]
    image, mask = implanted.implant(cell, kind, np.random.default_rng(3))
    assert (image <= cell).all() and image[mask].mean() < 0.95 * cell[mask].mean()


def test_busbars_are_found_where_they_were_drawn():
    cell = np.full((300, 300), 180, dtype=np.float32)
    for row in (50, 150, 250):
        cell[row - 2 : row + 3] = 60
    assert np.allclose(implanted.busbars(cell), [50, 150, 250], atol=1)
    assert implanted.busbars(np.full((300, 300), 180, dtype=np.float32)) == []


def test_train_and_validation_are_those_of_elpv(bench):
    real = elpv("mono", 64)
    assert bench.train.samples == real.train.samples
    assert bench.validation.samples == real.validation.samples


def test_half_of_the_test_cells_carry_a_defect_of_each_kind(bench):
    assert len(bench.test) == 150 and int(bench.test.labels.sum()) == 75
    assert set(bench.test.kinds) == {"good", *implanted.KINDS}
    assert bench.test.has_masks
    masks = bench.test.masks().flatten(1).any(1)
    assert masks.tolist() == bench.test.labels.bool().tolist()


def test_hosts_are_neither_in_train_nor_among_the_normal_test_cells(bench):
    normals = [
        s for s in (*bench.train.samples, *bench.validation.samples, *bench.test.samples) if not s.label
    ]
    seen = np.stack([np.asarray(Image.open(s.path).convert("L")) for s in normals])
    for sample in (s for s in bench.test.samples if s.label):
        image = np.asarray(Image.open(sample.path))
        outside = np.asarray(Image.open(sample.masks[0])) == 0
        rows, columns = (index[::97] for index in np.nonzero(outside))
        assert not (seen[:, rows, columns] == image[rows, columns]).all(axis=1).any()


def test_writing_twice_gives_the_same_bytes(bench, folder, tmp_path):
    implanted.benchmark("mono", folder=tmp_path)
    for path in (p for p in folder.rglob("*") if p.is_file()):
        assert path.read_bytes() == (tmp_path / path.relative_to(folder)).read_bytes()


def test_another_seed_gives_other_defects(bench, tmp_path):
    other = implanted.benchmark("mono", folder=tmp_path, seed=1)
    for first, second in zip(bench.test.samples[75:], other.test.samples[75:], strict=True):
        assert first.path.read_bytes() != second.path.read_bytes()


def test_bad_input_is_named(tmp_path):
    with pytest.raises(DataError, match="mono"):
        implanted.benchmark("thin", folder=tmp_path)
    with pytest.raises(DataError, match="crack"):
        implanted.implant(cells(1)[0], "hole", np.random.default_rng(0))
    with pytest.raises(DataError, match="uint8"):
        implanted.implant(np.zeros((8, 8)), "crack", np.random.default_rng(0))
