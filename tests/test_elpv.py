from collections import Counter

import pytest
import torch

from adlearn.data import elpv as module
from adlearn.data.elpv import elpv
from adlearn.errors import DataError

COUNTS = {  # from labels.csv: normal, defective, uncertain
    "mono": (588, 313, 173),
    "poly": (920, 402, 228),
}


def names(dataset):
    return [sample.path.name for sample in dataset.samples]


@pytest.fixture(scope="module", params=["mono", "poly"])
def benchmark(request):
    return elpv(request.param)


def splits(benchmark):
    return [benchmark.train, benchmark.validation, benchmark.test, *benchmark.extra.values()]


def test_every_cell_of_the_type_is_in_exactly_one_split(benchmark):
    everything = [name for split in splits(benchmark) for name in names(split)]
    assert len(everything) == len(set(everything)) == sum(COUNTS[benchmark.name.split("/")[1]])


def test_split_sizes_are_the_documented_ones(benchmark):
    normal, defective, uncertain = COUNTS[benchmark.name.split("/")[1]]
    assert len(benchmark.train) == normal - 250
    assert len(benchmark.validation) == 100
    assert len(benchmark.extra["defective"]) == defective - 150
    assert len(benchmark.extra["uncertain"]) == uncertain


def test_train_and_validation_are_normal_and_test_lists_normals_first(benchmark):
    assert benchmark.train.labels.sum() == benchmark.validation.labels.sum() == 0
    assert benchmark.test.labels.tolist() == [0] * 150 + [1] * 150
    assert set(benchmark.test.kinds) == {"good", "defective"}
    assert benchmark.extra["defective"].labels.all()
    assert not benchmark.test.has_masks


def test_uncertain_cells_carry_their_probability_as_kind(benchmark):
    uncertain = benchmark.extra["uncertain"]
    assert set(zip(uncertain.kinds, uncertain.labels.tolist(), strict=True)) == {
        ("uncertain 0.33", 0),
        ("uncertain 0.67", 1),
    }


def test_train_order_is_shuffled_so_that_the_first_images_come_from_everywhere(benchmark):
    numbers = torch.tensor([int(name[4:8]) for name in names(benchmark.train)], dtype=torch.float)
    spread = numbers.std()
    assert (numbers[:100].mean() - numbers.mean()).abs() < 0.4 * spread
    assert torch.corrcoef(torch.stack([numbers, torch.arange(len(numbers))]))[0, 1].abs() < 0.15


@pytest.mark.parametrize(
    ("cell_type", "train", "validation", "normal", "defective"),
    [
        (
            "mono",
            ["cell2216.png", "cell2436.png", "cell1116.png"],
            ["cell1543.png", "cell1068.png", "cell1062.png"],
            ["cell1269.png", "cell1038.png", "cell1518.png"],
            ["cell0496.png", "cell0007.png", "cell0370.png"],
        ),
        (
            "poly",
            ["cell1868.png", "cell2254.png", "cell1891.png"],
            ["cell2281.png", "cell1825.png", "cell1753.png"],
            ["cell2230.png", "cell1786.png", "cell0309.png"],
            ["cell1649.png", "cell0164.png", "cell0261.png"],
        ),
    ],
)
def test_split_never_changes(cell_type, train, validation, normal, defective):
    benchmark = elpv(cell_type)
    assert names(benchmark.train)[:3] == train
    assert names(benchmark.validation)[:3] == validation
    assert names(benchmark.test)[:3] == normal
    assert names(benchmark.test)[150:153] == defective


def test_images_are_read_and_masks_are_empty():
    item = elpv("mono", size=64).test[0]
    assert item.image.shape == (3, 64, 64) and not item.mask.any()
    assert 0.05 < item.image.mean() < 0.95


def test_labels_agree_with_the_package_s_own_table():
    table = [line.split() for line in (module.package_data() / "labels.csv").read_text().splitlines()]
    probability = {path.split("/")[1]: float(value) for path, value, _ in table}
    for split in splits(elpv("poly")):
        for sample in split.samples:
            assert sample.label == (probability[sample.path.name] > 0.5)


def test_table_has_the_counts_the_split_was_made_for():
    table = [line.split()[1:] for line in (module.package_data() / "labels.csv").read_text().splitlines()]
    counted = Counter((kind, round(float(p), 2)) for p, kind in table)
    for kind, (normal, defective, uncertain) in COUNTS.items():
        assert (counted[kind, 0.0], counted[kind, 1.0]) == (normal, defective)
        assert counted[kind, 0.33] + counted[kind, 0.67] == uncertain


def test_unknown_cell_type_lists_the_choices():
    with pytest.raises(DataError, match="mono, poly"):
        elpv("thin-film")


def test_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install elpv-dataset"):
        elpv("mono")


def test_missing_table_says_to_install_again(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "package_data", lambda: tmp_path)
    with pytest.raises(DataError, match=r"labels\.csv is missing"):
        elpv("mono")
