import csv
import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from adlearn.data import factory
from adlearn.data.factory import depth, drift, kit, layout, pictures
from adlearn.data.factory.layout import Task
from adlearn.data.images import load_xyz
from adlearn.data.readers import xyz_path
from adlearn.errors import DataError, StorageError

FEW = factory.Counts(train=3, validation=1, test=2, kind=1)
CATALOGUE = factory._CATALOGUE
KINDS = [(name, kind) for name, product in CATALOGUE.items() for kind in product.kinds]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    return factory.draw(tmp_path_factory.mktemp("drawn"), counts=FEW)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- what is drawn --------------------------------------------------------------------------------------


def test_six_products_have_four_kinds_or_more_each():
    assert len(factory.PRODUCTS) == 6
    assert all(len(product.kinds) >= 4 for product in CATALOGUE.values())


def test_the_layout_is_that_of_mvtec_ad(drawn):
    for name, product in CATALOGUE.items():
        root = drawn / name
        assert len(list((root / "train/good").glob("*.png"))) == FEW.train
        assert len(list((root / "validation/good").glob("*.png"))) == FEW.validation
        assert {p.name for p in (root / "test").iterdir()} == {"good", *product.kinds}
        for kind in product.kinds:
            assert Image.open(root / "test" / kind / "000.png").size == (256, 256)
            assert Image.open(root / "ground_truth" / kind / "000_mask.png").size == (256, 256)


def test_a_benchmark_reads_what_was_drawn(drawn, monkeypatch):
    monkeypatch.setattr(factory, "draw", lambda *_: drawn)
    bench = factory.benchmark("bolt", size=64)
    assert bench.name == "factory/bolt"
    assert len(bench.train) == FEW.train and not bench.train.labels.any()
    assert bench.test.labels.sum() == len(CATALOGUE["bolt"].kinds)
    assert all(mask.any() for mask, bad in zip(bench.test.masks(), bench.test.labels, strict=True) if bad)


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_masks_are_exactly_what_the_defect_changed(name, kind):
    drawn = pictures.picture(CATALOGUE[name], Task("test", kind, 0), 0, 1.0)
    difference = np.abs(drawn.image.astype(int) - drawn.clean).max(axis=2)
    assert 10 < drawn.mask.sum() < 0.25 * drawn.mask.size
    assert (difference[~drawn.mask] == 0).all()
    assert (difference[drawn.mask] > pictures.TOLERANCE).mean() > 0.5


def test_most_of_a_change_is_inside_the_mask():
    """The raw faulty picture, before changes below the tolerance are taken back, differs little outside."""
    product, rng = CATALOGUE["flange"], np.random.default_rng(0)
    spec = product.sample(rng)
    faulty = product.kinds["missing_hole"](spec, rng, 1.0)
    light = pictures.Light.sample(rng)
    clean = pictures.photograph(product.surface(spec), light)
    image = pictures.photograph(product.surface(faulty), light)
    outside = ~pictures.changed(image, clean)
    assert np.abs(image.astype(int) - clean).max(axis=2)[outside].mean() < 0.5


def test_normal_pictures_have_an_empty_mask_and_vary():
    first, mask = factory.render("wood")
    second, _ = factory.render("wood", index=1)
    assert not mask.any() and (first != second).mean() > 0.5


@pytest.mark.parametrize("name", factory.PRODUCTS)
def test_harder_means_smaller_or_fainter(name):
    def visibility(difficulty: float) -> float:
        total = 0.0
        for kind in CATALOGUE[name].kinds:
            drawn = pictures.picture(CATALOGUE[name], Task("test", kind, 1), 0, difficulty)
            total += np.abs(drawn.image.astype(float) - drawn.clean).sum()
        return total

    easy, default, hard = (visibility(d) for d in (0.5, 1.0, 2.0))
    assert easy > 1.1 * default > 1.1 * 1.1 * hard


def test_difficulty_leaves_normal_pictures_alone():
    easy, hard = (factory.render("chip", difficulty=d)[0] for d in (0.5, 2.0))
    assert np.array_equal(easy, hard)


def test_the_bolt_lies_at_any_angle():
    sample = CATALOGUE["bolt"].sample
    angles = np.array([sample(np.random.default_rng(i)).pose.angle for i in range(60)])
    assert np.histogram(angles, bins=4, range=(-np.pi, np.pi))[0].min() > 5


# --- determinism ----------------------------------------------------------------------------------------


def test_drawing_twice_gives_the_same_bytes(drawn, tmp_path):
    again = factory.draw(tmp_path, products=["steel", "chip"], counts=FEW)
    for name in ("steel", "chip"):
        assert contents(again / name) == contents(drawn / name)


def test_a_picture_does_not_depend_on_the_others(drawn):
    alone, mask = factory.render("fabric", "stain")
    assert np.array_equal(alone, np.asarray(Image.open(drawn / "fabric/test/stain/000.png")))
    assert np.array_equal(mask, np.asarray(Image.open(drawn / "fabric/ground_truth/stain/000_mask.png")) > 0)


def test_no_two_pictures_share_their_randomness(drawn):
    images = [p.read_bytes() for p in drawn.rglob("*.png") if "ground_truth" not in p.parts]
    assert len(set(images)) == len(images)


def test_seeds_give_other_pictures():
    assert not np.array_equal(factory.render("steel", seed=0)[0], factory.render("steel", seed=1)[0])


def test_processes_and_one_process_draw_the_same(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "_WORTH_PROCESSES", 1)
    again = factory.draw(tmp_path, products=["wood"], counts=FEW, workers=2)
    assert contents(again / "wood") == contents(drawn / "wood")


# --- the disk -------------------------------------------------------------------------------------------


def test_a_second_draw_touches_nothing(drawn):
    before = (drawn / "bolt").stat().st_ino
    factory.draw(drawn, products=["bolt"], counts=FEW)
    assert (drawn / "bolt").stat().st_ino == before


def test_another_request_is_drawn_again_and_leaves_no_rest(tmp_path):
    counts = factory.Counts(1, 1, 1, 1)
    factory.draw(tmp_path, products=["steel"], counts=counts)
    stray = tmp_path / "steel" / "stray.txt"
    stray.write_text("from before")
    first = contents(tmp_path / "steel")["train/good/000.png"]
    factory.draw(tmp_path, seed=1, products=["steel"], counts=counts)
    assert contents(tmp_path / "steel")["train/good/000.png"] != first
    assert json.loads((tmp_path / "steel" / "factory.json").read_text())["seed"] == 1
    assert not stray.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["steel"]


SCRIPT = """
import sys
from pathlib import Path
from adlearn.data import factory
factory.draw(Path(sys.argv[1]), products=["bolt"], counts=factory.Counts(3, 1, 2, 1))
"""


def start_drawing(folder: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder)])


def test_a_kill_while_drawing_leaves_nothing_under_the_final_name(drawn, tmp_path):
    process = start_drawing(tmp_path)
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob(".part-*/**/*.png")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "bolt").exists()
    factory.draw(tmp_path, products=["bolt"], counts=FEW)
    assert contents(tmp_path / "bolt") == contents(drawn / "bolt")


def test_rests_of_a_kill_are_removed_when_old_and_spared_when_new(tmp_path):
    old, new = tmp_path / ".part-bolt-old", tmp_path / ".part-bolt-new"
    for folder in (old, new):
        (folder / "train").mkdir(parents=True)
    os.utime(old, (0, 0))
    factory.draw(tmp_path, products=["steel"], counts=factory.Counts(1, 1, 1, 1))
    assert not old.exists() and new.exists()


def test_two_processes_at_once_give_one_whole_dataset(drawn, tmp_path):
    processes = [start_drawing(tmp_path) for _ in range(2)]
    assert [p.wait(timeout=120) for p in processes] == [0, 0]
    assert contents(tmp_path / "bolt") == contents(drawn / "bolt")
    assert [p.name for p in tmp_path.iterdir()] == ["bolt"]


def test_who_comes_second_keeps_the_first_ones_folder(tmp_path):
    order = factory._order(tmp_path, "steel", 0, 1.0, factory.Counts(1, 1, 1, 1))

    def slow_write(folder: Path, task: Task) -> None:
        layout.fulfil([order])  # somebody else finishes the same folder meanwhile
        order.write(folder, task)

    layout.fulfil([dataclasses.replace(order, write=slow_write)])
    assert order.is_drawn()
    assert [p.name for p in tmp_path.iterdir()] == ["steel"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_cannot_be_written_is_named_and_nothing_is_left(tmp_path, monkeypatch, code):
    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Image.Image, "save", refuse)
    with pytest.raises(StorageError, match="ADLEARN_DATA") as caught:
        factory.draw(tmp_path, products=["steel"], counts=FEW)
    assert caught.value.errno == code and list(tmp_path.iterdir()) == []


def test_a_read_only_data_folder_is_named(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(StorageError, match="read-only"):
        factory.draw(tmp_path / "new", products=["steel"], counts=FEW)


# --- bad input ------------------------------------------------------------------------------------------


def test_unknown_names_are_answered_with_the_choices(tmp_path):
    with pytest.raises(DataError, match="bolt"):
        factory.benchmark("spoon", folder=tmp_path)
    with pytest.raises(DataError, match="rust"):
        factory.render("bolt", "melted")
    with pytest.raises(DataError, match="flange"):
        factory.depth_benchmark("bolt", folder=tmp_path)
    with pytest.raises(DataError, match="steel"):
        factory.drift_benchmark("bolt", folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("difficulty", [0.0, -1.0, float("nan"), float("inf")])
def test_a_difficulty_that_is_not_positive_is_refused(tmp_path, difficulty):
    with pytest.raises(DataError, match="difficulty"):
        factory.draw(tmp_path, difficulty=difficulty, counts=FEW)
    with pytest.raises(DataError, match="difficulty"):
        factory.render("bolt", "rust", difficulty=difficulty)


# --- the kit --------------------------------------------------------------------------------------------


def obeys_the_rule(tray: kit.Tray) -> bool:
    counts = len(tray.of("bolt")), len(tray.of("washer"))
    battery = tray.of("battery")
    upright = len(battery) == 1 and np.cos(battery[0].pose.angle) > 0
    left = all(item.pose.x < 150 for item in tray.of("bolt"))
    right = all(item.pose.x > 150 for item in tray.of("washer"))
    return counts == kit.CONTENTS[tray.sticker] and upright and left and right


def test_normal_trays_obey_the_rule_and_every_logical_anomaly_breaks_it():
    for i in range(30):
        rng = np.random.default_rng(i)
        tray = kit.sample_tray(rng)
        assert obeys_the_rule(tray)
        for anomaly in kit.LOGICAL:
            assert not obeys_the_rule(anomaly(tray, rng).tray)


def test_structural_anomalies_keep_the_rule():
    rng = np.random.default_rng(0)
    for damage in kit.STRUCTURAL.values():
        assert obeys_the_rule(damage(kit.sample_tray(rng), rng, 1.0))


def test_every_anomaly_of_the_kit_has_masks_and_a_saturation_rule():
    names = set()
    for kind, count in (
        ("logical_anomalies", len(kit.LOGICAL)),
        ("structural_anomalies", len(kit.STRUCTURAL)),
    ):
        for index in range(count):
            drawn = kit.kit_picture(Task("test", kind, index), 0, 1.0)
            assert drawn.masks and all(mask.any() for mask in drawn.masks)
            rule = factory.kit_saturation()[kit.PIXEL_VALUE[drawn.name]]
            assert rule.relative or rule.threshold <= np.logical_or.reduce(drawn.masks).sum()
            names.add(drawn.name)
    assert names == set(kit.PIXEL_VALUE)


def test_the_kit_on_disk_is_laid_out_like_mvtec_loco(tmp_path, monkeypatch):
    order = kit.kit_order(tmp_path, 0, 1.0, 1)
    few = [t for t in order.tasks if t.index < 2]
    monkeypatch.setattr(factory, "kit_order", lambda *_: dataclasses.replace(order, tasks=few))
    bench = factory.kit_benchmark(size=64, folder=tmp_path)
    assert bench.test.labels.tolist() == [0, 0, 1, 1, 1, 1]
    assert set(bench.extra["logical"].kinds) == {"good", "logical_anomalies"}
    config = json.loads((tmp_path / "kit" / "defects_config.json").read_text())
    keys = {"defect_name", "pixel_value", "saturation_threshold", "relative_saturation"}
    assert all(set(entry) == keys for entry in config)
    for path in (tmp_path / "kit/ground_truth/logical_anomalies").rglob("000.png"):
        assert set(np.unique(np.asarray(Image.open(path)))) <= {0, *factory.kit_saturation()}


# --- depth ----------------------------------------------------------------------------------------------

DEPTH = [(name, kind) for name, (_, kinds) in depth.DEPTH_KINDS.items() for kind in kinds]


@pytest.mark.parametrize(("name", "kind"), DEPTH)
def test_depth_masks_cover_colour_and_height_and_nothing_else_changes(name, kind):
    drawn = depth.depth_picture(name, Task("test", kind, 0), 0, 1.0)
    assert 10 < drawn.mask.sum() < 0.25 * drawn.mask.size
    assert np.array_equal(drawn.image[~drawn.mask], drawn.clean_image[~drawn.mask])
    assert np.array_equal(drawn.points[~drawn.mask], drawn.clean_points[~drawn.mask])


COLOUR, POINTS, BOTH = (True, False), (False, True), (True, True)


@pytest.mark.parametrize(("name", "kind", "seen"), [
    ("steel", "dent", POINTS), ("steel", "oil", COLOUR), ("steel", "spatter", BOTH),
    ("flange", "dent", POINTS), ("flange", "stain", COLOUR), ("flange", "chipped_rim", BOTH),
])  # fmt: skip
def test_some_defects_are_in_the_colour_only_and_some_in_the_points_only(name, kind, seen):
    drawn = depth.depth_picture(name, Task("test", kind, 1), 0, 1.0)
    colour = pictures.changed(drawn.image, drawn.clean_image).sum() > 10
    height = (np.abs(drawn.points - drawn.clean_points)[..., 2] > depth.Z_TOLERANCE).sum() > 10
    assert (colour, height) == seen


def test_points_on_disk_are_metric_float_and_belong_to_their_picture(tmp_path, monkeypatch):
    order = depth.depth_order(tmp_path, "flange", 0, 1.0, 1)
    few = [t for t in order.tasks if t.index < 1]
    monkeypatch.setattr(factory, "depth_order", lambda *_: dataclasses.replace(order, tasks=few))
    bench = factory.depth_benchmark("flange", size=64, folder=tmp_path)
    assert bench.test.labels.tolist() == [0, 1, 1, 1] and bench.test.masks()[1:].flatten(1).any(1).all()
    points = load_xyz(xyz_path(bench.test.samples[0]))
    assert points.dtype == torch.float32 and points.shape == (3, 256, 256)
    assert torch.allclose(points[0, 0].diff(), torch.tensor(depth.MM_PER_PIXEL), atol=1e-4)


# --- drift ----------------------------------------------------------------------------------------------


def test_drift_grows_from_nothing_to_everything():
    steps = [drift.levels(step) for step in range(drift.STEPS)]
    assert steps[0] == drift.Levels(0, 0, 0) and steps[-1] == drift.Levels(1, 1, 1)
    for name in ("lighting", "shift", "wear"):
        assert (np.diff([getattr(s, name) for s in steps]) >= 0).all()


def test_a_drifted_picture_is_darker_and_an_undrifted_one_is_not():
    still = drift.Levels(0, 0, 0)
    first = drift.drift_picture("steel", 0, 0, 1.0)
    assert np.array_equal(first.image, drift.drift_picture("steel", 0, 0, 1.0, still).image)
    last, undrifted = (drift.drift_picture("steel", drift.STEPS - 1, 0, 1.0, at) for at in (None, still))
    assert last.clean.mean() < 0.9 * undrifted.clean.mean()


def test_a_sequence_is_read_in_the_order_of_time(tmp_path, monkeypatch):
    monkeypatch.setattr(drift, "STEPS", 6)
    order = drift.drift_order(tmp_path, "flange", 3, 1.0, 1)
    layout.fulfil([order])
    samples = drift.read_sequence(order.folder)
    assert [s.path.stem for s in samples] == [f"step_{i:04d}" for i in range(6)]
    assert all(s.path.is_file() and all(m.is_file() for m in s.masks) for s in samples)
    with open(order.folder / "drift.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == drift.COLUMNS
    assert [int(r["label"]) for r in rows] == [s.label for s in samples]


def test_every_writer_can_be_sent_to_another_process(tmp_path):
    import pickle

    for make in (
        partial(factory._order, tmp_path, "bolt", 0, 1.0, FEW),
        partial(kit.kit_order, tmp_path, 0, 1.0, 1),
    ):
        assert pickle.loads(pickle.dumps(make().write))
