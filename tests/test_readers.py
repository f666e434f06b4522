import csv
import io
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from PIL import Image

from adlearn import data, paths
from adlearn.data import catalogue, readers
from adlearn.data.images import load_xyz
from adlearn.data.readers.common import hold_out
from adlearn.data.readers.magnetic_tile import _fill, _number
from adlearn.errors import DataError

WIDTH, HEIGHT = 6, 4


def encoded(value, suffix=".png", size=(WIDTH, HEIGHT)):
    """A grey image of one value in the format of `suffix`."""
    buffer = io.BytesIO()
    name = {".jpg": "JPEG", ".JPG": "JPEG"}.get(suffix, suffix[1:])
    Image.new("L", size, value).save(buffer, name)
    return buffer.getvalue()


def put(root, *relatives, value=90):
    """Write an image at each path below `root`."""
    for relative in relatives:
        path = Path(root, relative)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(value, path.suffix))


def numbered(folder, count, suffix=".png"):
    return [f"{folder}/{i:03d}{suffix}" for i in range(count)]


def names(dataset):
    return [sample.path.name for sample in dataset.samples]


def disjoint(*datasets):
    everything = [sample.path for dataset in datasets for sample in dataset.samples]
    return len(everything) == len(set(everything))


def check(benchmark, train, validation, normal, anomalous):
    """Counts, disjoint splits, normal-only training, and every mask readable with its image."""
    assert (len(benchmark.train), len(benchmark.validation)) == (train, validation)
    labels = benchmark.test.labels.tolist()
    assert labels == [0] * normal + [1] * anomalous
    assert benchmark.train.labels.sum() == benchmark.validation.labels.sum() == 0
    assert disjoint(benchmark.train, benchmark.validation, benchmark.test, *benchmark.extra.values())
    masks = benchmark.test.resized(8).masks().flatten(1).any(1).long().tolist()
    assert masks == (labels if benchmark.test.has_masks else [0] * len(labels))


@pytest.fixture
def mvtec(tmp_path):
    """A tiny `bottle`: 20 train, 3 good and 2 + 1 defective test images, masks."""
    root = tmp_path / "mvtec_ad"
    put(root, *numbered("bottle/train/good", 20), *numbered("bottle/test/good", 3))
    put(root, *numbered("bottle/test/broken_large", 2), *numbered("bottle/test/contamination", 1))
    put(root, *numbered("bottle/ground_truth/broken_large", 2, "_mask.png"), value=255)
    put(root, *numbered("bottle/ground_truth/contamination", 1, "_mask.png"), value=255)
    return root


# --- MVTec layout ---


def test_mvtec_ad_is_read_with_held_out_validation(mvtec):
    benchmark = readers.mvtec_ad(mvtec, "bottle")
    check(benchmark, train=17, validation=3, normal=3, anomalous=3)
    assert benchmark.test.kinds == ["good"] * 3 + ["broken_large"] * 2 + ["contamination"]
    assert benchmark.name == "mvtec_ad/bottle" and benchmark.test.has_masks


def test_masks_may_carry_the_image_s_own_name(mvtec):
    for path in mvtec.rglob("*_mask.png"):
        path.rename(path.with_name(path.name.replace("_mask", "")))
    check(readers.mvtec_folder(mvtec, "bottle"), train=17, validation=3, normal=3, anomalous=3)


def test_own_validation_split_is_used_where_there_is_one(mvtec):
    put(mvtec, *numbered("bottle/validation/good", 2))
    benchmark = readers.mvtec_folder(mvtec, "bottle")
    check(benchmark, train=20, validation=2, normal=3, anomalous=3)
    assert names(benchmark.train) != sorted(names(benchmark.train))


def test_folder_without_ground_truth_has_labels_only(mvtec):
    (mvtec / "bottle/ground_truth").rename(mvtec / "elsewhere")
    benchmark = readers.mvtec_folder(mvtec, "bottle")
    assert not benchmark.test.has_masks
    check(benchmark, train=17, validation=3, normal=3, anomalous=3)


def test_hidden_and_other_files_are_passed_over(mvtec):
    for name in (".DS_Store", "._000.png", "Thumbs.db", "readme.txt"):
        (mvtec / "bottle/train/good" / name).write_bytes(b"x")
    (mvtec / "bottle/test/.ipynb_checkpoints").mkdir()
    check(readers.mvtec_ad(mvtec, "bottle"), train=17, validation=3, normal=3, anomalous=3)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "bottle/train/good").rename(root / "x"), r"train/good is missing"),
        (lambda root: (root / "bottle/test/good").rename(root / "x"), r"test/good is missing"),
        (lambda root: (root / "bottle").rename(root / "x"), r"bottle is missing"),
        (lambda root: [p.unlink() for p in (root / "bottle/train/good").iterdir()], "good holds no images"),
        (lambda root: (root / "bottle/test/cut").mkdir(), r"test/cut holds no images"),
        (
            lambda root: (root / "bottle/ground_truth/broken_large/001_mask.png").unlink(),
            r"ground_truth/broken_large/001_mask\.png of .*test/broken_large/001\.png is missing",
        ),
    ],
)
def test_what_is_missing_is_named(mvtec, damage, message):
    damage(mvtec)
    with pytest.raises(DataError, match=message):
        readers.mvtec_ad(mvtec, "bottle")


def test_test_split_without_anomalies_is_refused(tmp_path):
    put(tmp_path, *numbered("part/train/good", 3), *numbered("part/test/good", 3))
    with pytest.raises(DataError, match="no anomalous images"):
        readers.mvtec_folder(tmp_path, "part")


def test_mask_of_wrong_size_is_named_when_loaded(mvtec):
    mask = mvtec / "bottle/ground_truth/contamination/000_mask.png"
    mask.write_bytes(encoded(255, size=(HEIGHT, WIDTH)))
    benchmark = readers.mvtec_ad(mvtec, "bottle")
    with pytest.raises(DataError, match=r"contamination/000_mask\.png is 4x6 but image .* is 6x4"):
        benchmark.test[5]


def test_truncated_image_is_named_when_loaded(mvtec):
    image = mvtec / "bottle/test/good/001.png"
    image.write_bytes(image.read_bytes()[:50])
    with pytest.raises(DataError, match=r"test/good/001\.png cannot be read"):
        readers.mvtec_ad(mvtec, "bottle").test.images()


@pytest.mark.parametrize(
    "reader",
    [readers.mvtec_ad, readers.mvtec_loco, readers.mvtec_3d, readers.visa, readers.btad, readers.mpdd],
)
def test_unknown_category_lists_the_choices(tmp_path, reader):
    with pytest.raises(DataError, match=r"has no category 'spoon': choose one of .*, "):
        reader(tmp_path, "spoon")


def test_mpdd_is_read(tmp_path):
    put(tmp_path, *numbered("tubes/train/good", 4), *numbered("tubes/test/good", 2))
    put(tmp_path, *numbered("tubes/test/anomalous", 3))
    put(tmp_path, *numbered("tubes/ground_truth/anomalous", 3, "_mask.png"), value=1)
    check(readers.mpdd(tmp_path, "tubes"), train=3, validation=1, normal=2, anomalous=3)


# --- hold-out ---


@pytest.mark.parametrize(("count", "held"), [(2, 1), (7, 1), (20, 3), (100, 15), (209, 31)])
def test_hold_out_takes_15_percent_and_at_least_one(count, held):
    samples = [data.Sample(Path(f"{i:03d}.png"), 0) for i in range(count)]
    train, validation = hold_out(samples)
    assert (len(train), len(validation)) == (count - held, held)
    assert {s.path for s in train + validation} == {s.path for s in samples}


def test_hold_out_uses_a_single_image_for_both():
    only = [data.Sample(Path("000.png"), 0)]
    assert hold_out(only) == (only, only)


def test_hold_out_depends_on_names_only():
    samples = [data.Sample(Path(f"/a/{i:03d}.png"), 0) for i in range(40)]
    moved = [data.Sample(Path("/b") / s.path.name, 0) for s in reversed(samples)]
    first, second = hold_out(samples), hold_out(moved)
    assert [[s.path.name for s in split] for split in first] == [
        [s.path.name for s in split] for split in second
    ]
    assert [s.path.name for s in first[1]] == [
        "035.png",
        "033.png",
        "012.png",
        "001.png",
        "017.png",
        "004.png",
    ]


# --- MVTec LOCO ---


@pytest.fixture
def loco(tmp_path):
    put(tmp_path, *numbered("pushpins/train/good", 5), *numbered("pushpins/validation/good", 2))
    put(tmp_path, *numbered("pushpins/test/good", 2))
    put(tmp_path, *numbered("pushpins/test/logical_anomalies", 2))
    put(tmp_path, *numbered("pushpins/test/structural_anomalies", 1))
    put(tmp_path, *numbered("pushpins/ground_truth/logical_anomalies/000", 2), value=255)
    put(tmp_path, *numbered("pushpins/ground_truth/logical_anomalies/001", 1), value=254)
    put(tmp_path, *numbered("pushpins/ground_truth/structural_anomalies/000", 1), value=250)
    config = [
        {
            "defect_name": "additional_1_pushpin",
            "pixel_value": 255,
            "saturation_threshold": 6300,
            "relative_saturation": False,
        },
        {
            "defect_name": "broken",
            "pixel_value": 250,
            "saturation_threshold": 1.0,
            "relative_saturation": True,
        },
    ]
    (tmp_path / "pushpins/defects_config.json").write_text(json.dumps(config))
    return tmp_path


def test_loco_is_read_with_all_masks_of_each_image(loco):
    benchmark = readers.mvtec_loco(loco, "pushpins")
    check(benchmark, train=5, validation=2, normal=2, anomalous=3)
    assert [len(sample.masks) for sample in benchmark.test.samples] == [0, 0, 2, 1, 1]
    assert set(benchmark.test.kinds) == {"good", "logical_anomalies", "structural_anomalies"}


def test_loco_masks_are_united(loco):
    first, second = (loco / f"pushpins/ground_truth/logical_anomalies/000/00{i}.png" for i in range(2))
    for path, (y, x) in ((first, (0, 0)), (second, (3, 5))):
        pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
        pixels[y, x] = 255
        Image.fromarray(pixels).save(path)
    item = readers.mvtec_loco(loco, "pushpins", size=None).test[2]
    assert item.mask.nonzero().tolist() == [[0, 0], [3, 5]]


def test_loco_saturation_is_keyed_by_pixel_value(loco):
    assert readers.loco_saturation(loco, "pushpins") == {
        255: readers.SaturationRule(threshold=6300, relative=False),
        250: readers.SaturationRule(threshold=1.0, relative=True),
    }


def test_loco_without_masks_or_usable_config_is_named(loco):
    (loco / "pushpins/ground_truth/logical_anomalies/001/000.png").unlink()
    with pytest.raises(DataError, match="logical_anomalies/001 holds no images"):
        readers.mvtec_loco(loco, "pushpins")
    config = loco / "pushpins/defects_config.json"
    for content in ("not json", "[{}]", "[1]", "3"):
        config.write_text(content)
        with pytest.raises(DataError, match=r"defects_config\.json is not the defects list"):
            readers.loco_saturation(loco, "pushpins")
    config.unlink()
    with pytest.raises(DataError, match=r"defects_config\.json is missing"):
        readers.loco_saturation(loco, "pushpins")


# --- MVTec 3D-AD ---


def test_mvtec_3d_is_read_with_points_beside_each_image(tmp_path):
    for split, kind, count in (
        ("train", "good", 4),
        ("validation", "good", 2),
        ("test", "good", 2),
        ("test", "hole", 2),
    ):
        put(tmp_path, *numbered(f"bagel/{split}/{kind}/rgb", count))
        (tmp_path / f"bagel/{split}/{kind}/xyz").mkdir()
        for name in numbered(f"bagel/{split}/{kind}/xyz", count, ".tiff"):
            tifffile.imwrite(tmp_path / name, np.ones((HEIGHT, WIDTH, 3), np.float32), photometric="rgb")
    put(tmp_path, *numbered("bagel/test/good/gt", 2), value=0)
    put(tmp_path, *numbered("bagel/test/hole/gt", 2), value=255)
    benchmark = readers.mvtec_3d(tmp_path, "bagel")
    check(benchmark, train=4, validation=2, normal=2, anomalous=2)
    sample = benchmark.test.samples[3]
    assert readers.xyz_path(sample) == tmp_path / "bagel/test/hole/xyz/001.tiff"
    assert load_xyz(readers.xyz_path(sample)).shape == (3, HEIGHT, WIDTH)
    (tmp_path / "bagel/test/hole/gt/001.png").unlink()
    with pytest.raises(DataError, match=r"hole/gt/001\.png of .*hole/rgb/001\.png is missing"):
        readers.mvtec_3d(tmp_path, "bagel")


# --- VisA ---


def visa_row(split, label, name, mask=""):
    folder = {"normal": "Normal", "anomaly": "Anomaly"}[label]
    return ["candle", split, label, f"candle/Data/Images/{folder}/{name}", mask]


def write_table(root, rows, header=("object", "split", "label", "image", "mask")):
    (root / "split_csv").mkdir(exist_ok=True)
    with (root / "split_csv/1cls.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.fixture
def visa(tmp_path):
    root = tmp_path / "visa"
    put(root, *numbered("candle/Data/Images/Normal", 10, ".JPG"))
    put(root, *numbered("candle/Data/Images/Anomaly", 2, ".JPG"))
    put(root, *numbered("candle/Data/Masks/Anomaly", 2), value=1)
    rows = [visa_row("train", "normal", f"{i:03d}.JPG") for i in range(7)]
    rows += [
        visa_row("test", "anomaly", f"{i:03d}.JPG", f"candle/Data/Masks/Anomaly/{i:03d}.png")
        for i in range(2)
    ]
    rows += [visa_row("test", "normal", f"{i:03d}.JPG") for i in range(7, 10)]
    rows += [["pcb1", "train", "normal", "pcb1/Data/Images/Normal/000.JPG", ""]]
    write_table(root, rows)
    return root


def test_visa_follows_its_table(visa):
    check(readers.visa(visa, "candle"), train=6, validation=1, normal=3, anomalous=2)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda root: (root / "split_csv/1cls.csv").unlink(),
            r"1cls\.csv is missing: it is the split of VisA",
        ),
        (lambda root: write_table(root, [], ("image", "label")), r"1cls\.csv has columns"),
        (lambda root: write_table(root, []), "lists no normal training images of candle"),
        (
            lambda root: (root / "candle/Data/Images/Normal/003.JPG").unlink(),
            r"003\.JPG, listed in .*, is missing",
        ),
        (
            lambda root: (root / "candle/Data/Masks/Anomaly/001.png").unlink(),
            r"mask .*Anomaly/001\.png of .* missing",
        ),
        (
            lambda root: write_table(root, [["candle", "train", "normal", "../../secret.png", ""]]),
            r"names \.\./\.\./secret\.png, outside",
        ),
    ],
)
def test_unusable_visa_is_explained(visa, damage, message):
    damage(visa)
    with pytest.raises(DataError, match=message):
        readers.visa(visa, "candle")


# --- BTAD, KolektorSDD2, Magnetic Tile ---


@pytest.mark.parametrize(("images", "masks"), [(".png", ".png"), (".bmp", ".png"), (".bmp", ".bmp")])
def test_btad_is_read_with_either_suffix(tmp_path, images, masks):
    put(tmp_path, *numbered("03/train/ok", 5, images), *numbered("03/test/ok", 2, images))
    put(tmp_path, *numbered("03/test/ko", 3, images))
    put(tmp_path, *numbered("03/ground_truth/ko", 3, masks), value=255)
    check(readers.btad(tmp_path, "03"), train=4, validation=1, normal=2, anomalous=3)
    (tmp_path / f"03/ground_truth/ko/002{masks}").unlink()
    with pytest.raises(DataError, match=r"ground_truth/ko/002\.png of .*test/ko/002"):
        readers.btad(tmp_path, "03")


@pytest.fixture
def ksdd2(tmp_path):
    """Train 10000-10009 with two defective; test 20000-20004 with one."""
    root = tmp_path / "ksdd2"
    for split, first, count, bad in (("train", 10000, 10, {10003, 10007}), ("test", 20000, 5, {20001})):
        for number in range(first, first + count):
            put(root, f"{split}/{number}.png")
            put(root, f"{split}/{number}_GT.png", value=255 if number in bad else 0)
    return root


def test_ksdd2_labels_come_from_the_masks(ksdd2):
    benchmark = readers.ksdd2(ksdd2)
    check(benchmark, train=7, validation=1, normal=4, anomalous=1)
    assert names(benchmark.extra["defective"]) == ["10003.png", "10007.png"]
    assert names(benchmark.test)[-1] == "20001.png"


def test_ksdd2_mask_that_is_missing_is_named(ksdd2):
    (ksdd2 / "train/10004_GT.png").unlink()
    with pytest.raises(DataError, match=r"10004_GT\.png of .*10004\.png is missing"):
        readers.ksdd2(ksdd2)


@pytest.fixture
def tiles(tmp_path):
    """60 tiles of 5 free images and 2 images of each defect."""
    root = tmp_path / "magnetic_tile"
    for tile in range(60):
        for exposure in range(1, 6):
            stem = f"MT_Free/Imgs/exp{exposure}_num_{1000 * tile + 30 * exposure}"
            put(root, f"{stem}.jpg")
            put(root, f"{stem}.png", value=0)
    for kind in readers.MAGNETIC_TILE_KINDS:
        for number in (5, 7):
            put(root, f"MT_{kind}/Imgs/exp1_num_{number}.jpg")
            put(root, f"MT_{kind}/Imgs/exp1_num_{number}.png", value=255)
    return root


def distance_between(first, second):
    """The smallest difference between image numbers of two splits' normal images."""
    one, two = ([_number(s.path) for s in split.samples if not s.label] for split in (first, second))
    return min(abs(a - b) for a in one for b in two)


def test_magnetic_tile_keeps_each_tile_in_one_split(tiles):
    benchmark = readers.magnetic_tile(tiles)
    check(benchmark, train=50, validation=100, normal=150, anomalous=10)
    for other in (benchmark.validation, benchmark.test):
        assert distance_between(benchmark.train, other) > 200


def test_whole_tiles_are_taken_and_those_that_do_not_fit_left():
    tiles = [["a", "b", "c"], ["d", "e", "f"], ["g", "h"], ["i"]]
    assert _fill(tiles, 5) == (["a", "b", "c", "g", "h"], [["d", "e", "f"], ["i"]])


def test_incomplete_magnetic_tile_is_refused(tiles):
    for path in sorted((tiles / "MT_Free/Imgs").iterdir())[:200]:
        path.unlink()
    with pytest.raises(DataError, match=r"has \d+ images in MT_Free/Imgs, not 952"):
        readers.magnetic_tile(tiles)


def test_stray_file_in_magnetic_tile_is_named(tiles):
    put(tiles, "MT_Free/Imgs/photo.jpg")
    with pytest.raises(DataError, match=r"photo\.jpg is not named exp"):
        readers.magnetic_tile(tiles)


REAL_TILES = paths.data_dir() / "magnetic_tile"


@pytest.mark.skipif(not REAL_TILES.is_dir(), reason="Magnetic Tile is not in the data folder")
def test_real_magnetic_tile_has_the_documented_split():
    benchmark = readers.magnetic_tile(REAL_TILES, size=64)
    assert (
        str(benchmark) == "magnetic_tile: 702 train, 100 validation (normal), test 150 normal + 392 anomalous"
    )
    assert disjoint(benchmark.train, benchmark.validation, benchmark.test)
    for other in (benchmark.validation, benchmark.test):
        assert distance_between(benchmark.train, other) > 200
    empty = ~benchmark.test.masks()[150:].flatten(1).any(1)
    assert [benchmark.test.kinds[150 + i] for i in empty.nonzero()] == ["uneven"] * 4


# --- by name ---


@pytest.fixture
def data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ADLEARN_DATA", str(tmp_path))
    monkeypatch.delenv("ADLEARN_DRY_RUN", raising=False)
    return tmp_path


def test_load_finds_a_dataset_below_the_data_folder(data_folder, mvtec):
    benchmark = data.load("mvtec_ad/bottle", size=8)
    check(benchmark, train=17, validation=3, normal=3, anomalous=3)
    assert benchmark.train[0].image.shape == (3, 8, 8)


def test_load_reads_a_dataset_without_categories(data_folder, ksdd2):
    assert data.load("ksdd2").name == "ksdd2"


def test_load_reads_any_folder_in_mvtec_layout(data_folder, mvtec, monkeypatch):
    (mvtec / "bottle").rename(mvtec / "my part")
    assert len(data.load(f"folder:{mvtec / 'my part'}").train) == 17
    monkeypatch.chdir(mvtec)
    assert data.load("folder:my part/").name == "mvtec_ad/my part"


@pytest.mark.parametrize("maker", ["factory", "implanted"])
def test_load_hands_made_datasets_to_their_module(data_folder, monkeypatch, maker):
    made = SimpleNamespace(benchmark=lambda category, size: (maker, category, size))
    monkeypatch.setattr(data, maker, made, raising=False)
    assert data.load(f"{maker}/thing", 32) == (maker, "thing", 32)


def test_load_reads_elpv(data_folder):
    assert data.load("elpv/poly").name == "elpv/poly"


@pytest.mark.parametrize(
    "name", [n for n, e in catalogue.PUBLISHED.items() if not e.categories] + ["visa/candle"]
)
def test_absent_dataset_names_folder_content_and_card(data_folder, name):
    folder = os.path.join(data_folder, name.split("/")[0])
    with pytest.raises(DataError) as caught:
        data.load(name)
    for part in (folder, "should hold", "data/README.md", "ADLEARN_DATA"):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", ["", "mnist", "magnetic_tile/free", "MVTEC_AD/bottle"])
def test_unknown_dataset_lists_the_choices(data_folder, name):
    with pytest.raises(DataError, match=r"elpv/mono\|poly.*mvtec_ad/<category>.*ksdd2"):
        data.load(name)


@pytest.mark.parametrize("name", ["mvtec_ad", "mvtec_ad/spoon", "elpv", "elpv/cdte"])
def test_unknown_category_by_name_lists_the_choices(data_folder, name):
    with pytest.raises(DataError, match=r"has no category .*choose one of (bottle|mono), "):
        data.load(name)


def test_available_tells_what_is_there_and_where(data_folder, ksdd2):
    found = {entry.name: entry for entry in data.available()}
    assert set(found) == {"elpv", "factory", "implanted", *catalogue.PUBLISHED}
    assert found["ksdd2"].present and found["ksdd2"].where == ksdd2
    assert found["elpv"].present and found["factory"].present
    assert not found["visa"].present
    assert found["visa"].categories == readers.VISA


def test_every_published_dataset_has_a_card():
    card = (paths.root() / "data/README.md").read_text(encoding="utf-8")
    for name in [*catalogue.PUBLISHED, "elpv", "factory", "implanted"]:
        assert f"`{name}" in card


def test_dry_run_cuts_every_split(data_folder, monkeypatch):
    monkeypatch.setenv("ADLEARN_DRY_RUN", "1")
    benchmark = data.load("elpv/mono")
    assert (len(benchmark.train), len(benchmark.validation)) == (32, 20)
    assert benchmark.test.labels.tolist() == [0] * 8 + [1] * 8
    assert benchmark.extra["defective"].labels.tolist() == [1] * 8
    assert len(benchmark.extra["uncertain"]) == 16
