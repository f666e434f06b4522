import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from adlearn import results
from adlearn.errors import DataError
from adlearn.results import compare, load, table, tabulate, write_readme, write_records

GOOD = {
    "image_auroc": 0.9,
    "image_auroc_low": 0.85,
    "image_auroc_high": 0.95,
    "fit_seconds": 1.5,
    "model_mb": 4.0,
}


def row(method, dataset, **metrics):
    return {"method": method, "dataset": dataset, **metrics}


def write(folder, metrics, method="PaDiM", dataset="elpv", notebook="02_gaussian", profile="cpu"):
    write_records(folder / f"{notebook}.json", notebook, profile, [row(method, dataset, **metrics)])
    return folder


@pytest.fixture
def folders(tmp_path):
    return tmp_path / "new", tmp_path / "old"


def differences(folders, new, old):
    return compare(write(folders[0], new), write(folders[1], old))


def test_what_is_written_can_be_loaded(tmp_path):
    rows = [row("A", "x", image_auroc=0.5), row("B", "x", image_auroc=0.75, note="compact")]
    write_records(tmp_path / "01_a.json", "01_a", "cpu", rows)
    write(tmp_path, GOOD)
    frame = load(tmp_path)
    assert list(frame["notebook"]) == ["01_a", "01_a", "02_gaussian"]
    assert frame.loc[1, "note"] == "compact" and frame.loc[1, "image_auroc"] == 0.75


def test_numpy_and_torch_numbers_become_plain_and_short(tmp_path):
    metrics = {"a": np.float32(0.123456789), "b": torch.tensor(2.5), "c": np.int64(3), "d": 1 / 3}
    write(tmp_path, metrics)
    record = json.loads((tmp_path / "02_gaussian.json").read_text())["records"][0]
    assert record == {"method": "PaDiM", "dataset": "elpv", "a": 0.12346, "b": 2.5, "c": 3, "d": 0.33333}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("nan"), torch.tensor(-torch.inf)])
def test_numbers_that_are_not_finite_are_refused_by_name_and_leave_the_file(value, tmp_path):
    write(tmp_path, GOOD)
    with pytest.raises(DataError, match=r"pixel_auroc is -?(nan|inf)"):
        write(tmp_path, GOOD | {"pixel_auroc": value})
    assert load(tmp_path).loc[0, "image_auroc"] == 0.9


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"notebook": "a", "profile": "cpu", "records": 3}', b"\xff\xfe\x00"]
)
def test_a_damaged_file_is_named(content, tmp_path):
    path = tmp_path / "03_bad.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=r"03_bad\.json is not a results file.*run its notebook again"):
        load(tmp_path)


def test_no_results_are_an_empty_frame(tmp_path):
    assert load(tmp_path / "none").empty
    assert compare(tmp_path / "none", tmp_path / "none") == []


def test_files_being_written_are_not_read(tmp_path):
    write(tmp_path, GOOD)
    (tmp_path / ".part-abc.json").write_text('{"notebook": "02')
    assert len(load(tmp_path)) == 1


# --- compare


def test_equal_results_do_not_differ(folders):
    assert differences(folders, GOOD, GOOD) == []


@pytest.mark.parametrize(
    "metric", ["image_auroc", "image_auroc_low", "pixel_auroc", "pixel_aupro", "image_aupr", "image_f1_max"]
)
@pytest.mark.parametrize("sign", [-1, 1])
def test_scores_may_differ_by_two_hundredths(metric, sign, folders):
    assert differences(folders, {metric: 0.9 + sign * 0.02}, {metric: 0.9}) == []
    (line,) = differences(folders, {metric: 0.9 + sign * 0.0201}, {metric: 0.9})
    assert metric in line and "PaDiM on elpv" in line and "0.9 committed" in line


def test_other_numbers_may_differ_by_five_percent(folders):
    assert differences(folders, {"count": 104.0}, {"count": 100.0}) == []
    assert len(differences(folders, {"count": 106.0}, {"count": 100.0})) == 1


@pytest.mark.parametrize("cost", ["fit_seconds", "ms_per_image", "peak_mb"])
def test_costs_are_not_compared(cost, folders):
    assert differences(folders, {cost: 1000.0}, {cost: 1.0}) == []


def test_a_metric_on_one_side_only_is_reported(folders):
    assert "pixel_auroc is None now, 0.7 committed" in differences(folders, {}, {"pixel_auroc": 0.7})[0]
    assert "pixel_auroc is 0.7 now, None committed" in differences(folders, {"pixel_auroc": 0.7}, {})[0]


def test_text_must_be_the_same(folders):
    assert differences(folders, {"note": "a"}, {"note": "a"}) == []
    assert len(differences(folders, {"note": "a"}, {"note": "b"})) == 1


def test_records_on_one_side_only_are_reported(folders):
    new, old = folders
    write(new, GOOD, method="SPADE")
    write(old, GOOD, method="PaDiM")
    assert compare(new, old) == [
        "02_gaussian (cpu): PaDiM on elpv: committed, but not recorded now",
        "02_gaussian (cpu): SPADE on elpv: recorded now, but not committed",
    ]


def test_profiles_are_not_compared_with_each_other(folders):
    new, old = folders
    write(new, GOOD, profile="gpu")
    assert len(compare(new, write(old, GOOD))) == 2


# --- tables


def test_table_puts_the_best_of_each_dataset_first():
    rows = [
        {"method": "A", "dataset": "y", "image_auroc": 0.5},
        {"method": "B", "dataset": "x", "image_auroc": 0.6},
        {"method": "C", "dataset": "x", "image_auroc": 0.7},
    ]
    assert list(tabulate(rows)["method"]) == ["C", "B", "A"]


def test_table_shows_headings_intervals_and_rounded_numbers(tmp_path):
    frame = table("02", write(tmp_path, GOOD | {"image_auroc": 0.91234}))
    assert frame.to_dict("records") == [
        {
            "dataset": "elpv",
            "method": "PaDiM",
            "image AUROC": 0.912,
            "95 % interval": "0.85 to 0.95",
            "fit s": 1.5,
            "model MB": 4.0,
        }
    ]
    assert list(table("02", tmp_path, costs=False)) == ["dataset", "method", "image AUROC", "95 % interval"]


def test_table_of_one_notebook_leaves_out_the_others(tmp_path):
    write(tmp_path, GOOD)
    write(tmp_path, GOOD, notebook="03_memory_bank", method="PatchCore")
    assert list(table("03", tmp_path)["method"]) == ["PatchCore"]


# --- README


@pytest.fixture
def readme(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "committed_results_dir", lambda: tmp_path / "committed")
    path = tmp_path / "README.md"
    path.write_text("before\n" + "\n".join(results._MARKS) + "\nafter\n")
    return path


def test_readme_is_filled_between_the_marks_once(readme):
    folder = readme.parent / "committed"
    rows = [
        row("PaDiM", "elpv", image_auroc=0.9),
        row("PaDiM", "factory/bolt", image_auroc=0.6),
        row("PaDiM", "factory", image_auroc=0.8, pixel_auroc=0.7),
    ]
    write_records(folder / "02_gaussian.json", "02_gaussian", "cpu", rows)
    write(folder, GOOD, method="PatchCore", notebook="03_memory_bank")
    assert write_readme(readme)
    text = readme.read_text()
    assert text.startswith(f"before\n{results._MARKS[0]}\n") and text.endswith(
        f"{results._MARKS[1]}\nafter\n"
    )
    lines = text.splitlines()[2:-2]
    assert lines == [
        "| notebook | method | elpv | factory |",
        "| --- | --- | --- | --- |",
        "| [02_gaussian](notebooks/02_gaussian.ipynb) | PaDiM | 0.900 | 0.800 / 0.700 |",
        "| [03_memory_bank](notebooks/03_memory_bank.ipynb) | PatchCore | 0.900 |  |",
    ]
    assert not write_readme(readme) and readme.read_text() == text


def test_readme_without_results_says_so(readme):
    assert write_readme(readme) and not write_readme(readme)
    assert "_No results yet._" in readme.read_text()


@pytest.mark.parametrize(
    "marks",
    ["", results._MARKS[0], results._MARKS[0] * 2 + results._MARKS[1], "".join(reversed(results._MARKS))],
)
def test_readme_without_both_marks_is_refused_untouched(marks, readme):
    readme.write_text(marks)
    with pytest.raises(DataError, match=r"README\.md lacks"):
        write_readme(readme)
    assert readme.read_text() == marks


def test_many_writers_leave_one_whole_file(tmp_path):
    path = tmp_path / "02_gaussian.json"

    def write_many(writer):
        for _ in range(20):
            write_records(path, "02", "cpu", [row(f"method {i}", "x", writer=writer) for i in range(50)])
            frame = load(tmp_path)
            assert len(frame) == 50 and frame["writer"].nunique() == 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write_many, range(4)))
    assert [p.name for p in tmp_path.iterdir()] == ["02_gaussian.json"]
