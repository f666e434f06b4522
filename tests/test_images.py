import io

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from adlearn.data.images import load_image, load_mask, load_xyz
from adlearn.errors import DataError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (7, 5), dtype=np.uint8)
RGB = RNG.integers(0, 256, (7, 5, 3), dtype=np.uint8)


def planes(array):
    """(H, W) or (H, W, 3) values in [0, 1] as the (3, H, W) tensor load_image should give."""
    array = np.repeat(array[..., None], 3, axis=2) if array.ndim == 2 else array
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1), dtype=np.float32))


def save(image, path, **options):
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp"])
def test_rgb_pixels_come_back_exactly(tmp_path, suffix):
    options = {"lossless": True} if suffix == ".webp" else {}
    path = save(Image.fromarray(RGB), tmp_path / f"a{suffix}", **options)
    torch.testing.assert_close(load_image(path), planes(RGB / 255))


def test_grey_is_repeated_over_three_contiguous_channels(tmp_path):
    image = load_image(save(Image.fromarray(GREY), tmp_path / "a.png"))
    torch.testing.assert_close(image, planes(GREY / 255))
    assert image.is_contiguous() and image.dtype == torch.float32


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("size", [None, (7, 5)])
def test_16_bit_keeps_its_depth(tmp_path, suffix, size):
    deep = np.linspace(0, 65535, 35).astype(np.uint16).reshape(7, 5)
    image = load_image(save(Image.fromarray(deep), tmp_path / f"a{suffix}"), size)
    torch.testing.assert_close(image, planes(deep / 65535))
    assert image.is_contiguous()
    assert len(image.unique()) == 35


def test_big_endian_16_bit_tiff_is_read(tmp_path):
    deep = np.array([[0, 65535], [256, 1]], dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", deep, byteorder=">")
    torch.testing.assert_close(load_image(tmp_path / "a.tif"), planes(deep / 65535))


def test_float_tiff_in_unit_range_is_read_and_others_are_refused(tmp_path):
    values = RNG.random((4, 3)).astype(np.float32)
    tifffile.imwrite(tmp_path / "a.tif", values)
    torch.testing.assert_close(load_image(tmp_path / "a.tif"), planes(values))
    tifffile.imwrite(tmp_path / "b.tif", values * 300)
    with pytest.raises(DataError, match=r"b\.tif.*rescale"):
        load_image(tmp_path / "b.tif")


def test_32_bit_integers_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.full((4, 3), 70000, dtype=np.int32))
    with pytest.raises(DataError, match=r"a\.tif.*16-bit"):
        load_image(tmp_path / "a.tif")


def test_palette_gives_the_palette_colours(tmp_path):
    image = Image.fromarray(np.array([[0, 1], [2, 1]], dtype=np.uint8), "P")
    image.putpalette([10, 20, 30, 255, 0, 0, 0, 0, 255])
    colours = np.array([[[10, 20, 30], [255, 0, 0]], [[0, 0, 255], [255, 0, 0]]])
    torch.testing.assert_close(load_image(save(image, tmp_path / "a.png")), planes(colours / 255))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_are_black_and_half_transparent_ones_dimmed(tmp_path, mode):
    bands = len(mode) - 1
    pixels = np.full((1, 3, bands + 1), 200, dtype=np.uint8)
    pixels[0, :, -1] = [0, 255, 128]
    image = load_image(save(Image.fromarray(pixels, mode), tmp_path / "a.png"))
    expected = torch.tensor([0.0, 200 / 255, 200 / 255 * 128 / 255])
    torch.testing.assert_close(image, expected.expand(3, 1, 3), atol=0.005, rtol=0)


def test_palette_transparency_is_black(tmp_path):
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), "P")
    image.putpalette([255, 255, 255, 255, 255, 255])
    path = save(image, tmp_path / "a.png", transparency=0)
    assert load_image(path)[:, 0, 0].tolist() == [0, 0, 0]
    assert load_image(path)[:, 0, 1].tolist() == [1, 1, 1]


def test_cmyk_becomes_rgb(tmp_path):
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    image = load_image(save(red, tmp_path / "a.jpg", quality=95))
    torch.testing.assert_close(image[:, 8, 8], torch.tensor([1.0, 0.0, 0.0]), atol=0.03, rtol=0)


def test_one_bit_becomes_black_and_white(tmp_path):
    bits = GREY > 127
    image = load_image(save(Image.fromarray(bits), tmp_path / "a.png"))
    torch.testing.assert_close(image, planes(bits.astype(float)))


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif"])
def test_exif_orientation_is_applied_to_image_and_size(tmp_path, name):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    stored = np.zeros((8, 16), dtype=np.uint8)
    stored[:, :8] = 255
    path = save(Image.fromarray(stored), tmp_path / name, exif=exif)
    image = load_image(path)
    assert image.shape == (3, 16, 8)
    torch.testing.assert_close(image, planes(np.rot90(stored, -1) / 255), atol=0.1, rtol=0)
    upright_mask = save(Image.new("L", (8, 16)), tmp_path / "m.png")
    assert load_mask((upright_mask,), path).shape == (16, 8)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 30), st.integers(1, 30))
def test_any_size_resizes_to_any_size_within_range(tmp_path_factory, height, width, to_height, to_width):
    folder = tmp_path_factory.mktemp("sizes")
    path = save(Image.fromarray(RNG.integers(0, 256, (height, width), dtype=np.uint8)), folder / "a.png")
    image = load_image(path, (to_height, to_width))
    assert image.shape == (3, to_height, to_width)
    assert image.min() >= 0 and image.max() <= 1


def test_int_size_is_a_square_and_none_the_own_size(tmp_path):
    path = save(Image.fromarray(RGB), tmp_path / "a.png")
    assert load_image(path, 9).shape == (3, 9, 9)
    assert load_image(path, None).shape == (3, 7, 5)


@pytest.mark.parametrize("size", [0, (4, 0), (-1, 4)])
def test_size_that_is_not_positive_is_refused(tmp_path, size):
    path = save(Image.fromarray(RGB), tmp_path / "a.png")
    with pytest.raises(DataError, match="size="):
        load_image(path, size)


def test_shrinking_is_antialiased(tmp_path):
    stripes = np.tile(np.array([0, 255], dtype=np.uint8), (64, 32))
    image = load_image(save(Image.fromarray(stripes), tmp_path / "a.png"), 16)
    assert (image[:, 2:-2, 2:-2] - 0.5).abs().max() < 0.1


def test_resize_agrees_with_torch_antialiased_bilinear(tmp_path):
    smooth = np.add.outer(np.arange(60), np.arange(80)).astype(np.uint8)
    path = save(Image.fromarray(smooth), tmp_path / "a.png")
    reference = torch.nn.functional.interpolate(
        planes(smooth / 255)[None], size=(30, 20), mode="bilinear", antialias=True
    )[0]
    torch.testing.assert_close(load_image(path, (30, 20)), reference, atol=1.5 / 255, rtol=0)


def test_image_tensor_may_be_written_to(tmp_path):
    image = load_image(save(Image.fromarray(GREY), tmp_path / "a.png"))
    image[0] = 0
    assert image[1].sum() > 0


def truncated(path):
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, path.suffix[1:])
    path.write_bytes(buffer.getvalue()[:600])


def broken_checksum(path):
    """A PNG whose header has a wrong checksum."""
    Image.new("L", (4, 4)).save(path)
    content = bytearray(path.read_bytes())
    content[29] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("a.png", truncated, "cut off"),
        ("a.jpeg", truncated, "cut off"),
        ("a.png", broken_checksum, "not an image"),
        ("a.png", lambda path: path.write_bytes(b""), "0 bytes"),
        ("a.png", lambda path: path.write_text("no image"), "not an image"),
        ("a.png", lambda path: None, "is missing"),
        ("a.png", lambda path: path.mkdir(), "cannot be read"),
    ],
)
def test_unusable_image_is_named(tmp_path, name, damage, message):
    path = tmp_path / name
    damage(path)
    with pytest.raises(DataError, match=message) as caught:
        load_image(path, 8)
    assert str(path) in str(caught.value)


def test_image_too_large_for_pillow_s_limit_is_named(tmp_path, monkeypatch):
    path = save(Image.fromarray(GREY), tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DataError, match=r"a\.png cannot be read .*pixels"):
        load_image(path)


# --- masks ---


@pytest.fixture
def image(tmp_path):
    return save(Image.new("L", (5, 7)), tmp_path / "image.png")


def test_no_mask_files_give_none(image):
    assert load_mask((), image, 4) is None


@pytest.mark.parametrize("mode", ["L", "1", "I;16", "RGB", "RGBA", "P"])
def test_any_value_but_black_is_defect(tmp_path, image, mode):
    truth = GREY > 200
    small = truth.astype(np.uint8)
    mask = {
        "L": lambda: Image.fromarray(small),
        "1": lambda: Image.fromarray(truth),
        "I;16": lambda: Image.fromarray(small.astype(np.uint16) * 256),
        "RGB": lambda: Image.fromarray(np.stack([0 * small, 0 * small, small], axis=2)),
        "RGBA": lambda: Image.fromarray(np.stack([small, small, small, 0 * small + 255], axis=2)),
        "P": lambda: Image.fromarray(1 - small, "P"),
    }[mode]()
    if mode == "P":
        mask.putpalette([255, 0, 0, 0, 0, 0])  # index 0 is red and index 1 black: the colour decides
    loaded = load_mask((save(mask, tmp_path / "m.png"),), image)
    assert loaded.dtype == torch.bool
    assert loaded.tolist() == truth.tolist()


def test_several_masks_are_united(tmp_path, image):
    parts = [np.zeros((7, 5), np.uint8) for _ in range(2)]
    parts[0][0, 0], parts[1][6, 4] = 1, 255
    paths = tuple(save(Image.fromarray(p), tmp_path / f"{i}.png") for i, p in enumerate(parts))
    assert load_mask(paths, image).nonzero().tolist() == [[0, 0], [6, 4]]


@pytest.mark.parametrize("factor", [2, 3])
def test_enlarged_mask_repeats_each_pixel(tmp_path, image, factor):
    truth = GREY > 128
    path = save(Image.fromarray(truth), tmp_path / "m.png")
    enlarged = load_mask((path,), image, (7 * factor, 5 * factor))
    assert np.array_equal(enlarged.numpy(), np.kron(truth, np.ones((factor, factor), bool)))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 63), st.integers(0, 63), st.integers(1, 64), st.integers(1, 64))
def test_a_single_defect_pixel_survives_any_shrinking_near_its_place(tmp_path_factory, y, x, height, width):
    folder = tmp_path_factory.mktemp("thin")
    truth = np.zeros((64, 64), bool)
    truth[y, x] = True
    picture = save(Image.new("L", (64, 64)), folder / "i.png")
    mask = load_mask((save(Image.fromarray(truth), folder / "m.png"),), picture, (height, width))
    found = mask.nonzero()
    assert len(found) >= 1
    off = (found + 0.5) * torch.tensor([64 / height, 64 / width]) - torch.tensor([y + 0.5, x + 0.5])
    assert (off.abs() <= torch.tensor([64 / height, 64 / width])).all()


def test_thick_defects_shrink_by_nearest_neighbour(tmp_path):
    truth = RNG.random((64, 64)) > 0.5
    picture = save(Image.new("L", (64, 64)), tmp_path / "i.png")
    mask = load_mask((save(Image.fromarray(truth), tmp_path / "m.png"),), picture, 32)
    assert np.array_equal(mask.numpy(), truth[1::2, 1::2])


def test_mask_of_another_size_names_both_files_and_sizes(tmp_path, image):
    mask = save(Image.new("L", (7, 5)), tmp_path / "m.png")
    with pytest.raises(DataError, match=r"m\.png is 7x5 but image .*image\.png is 5x7"):
        load_mask((mask,), image, 4)


def test_missing_and_broken_masks_are_named(tmp_path, image):
    with pytest.raises(DataError, match=r"absent\.png is missing"):
        load_mask((tmp_path / "absent.png",), image)
    truncated(tmp_path / "m.png")
    with pytest.raises(DataError, match=r"m\.png"):
        load_mask((tmp_path / "m.png",), image)


# --- points ---


def test_points_come_back_as_channels(tmp_path):
    points = RNG.normal(size=(6, 4, 3)).astype(np.float32)
    points[0, 0] = 0
    tifffile.imwrite(tmp_path / "a.tiff", points, photometric="rgb")
    xyz = load_xyz(tmp_path / "a.tiff")
    assert xyz.dtype == torch.float32 and xyz.is_contiguous()
    assert np.array_equal(xyz.permute(1, 2, 0).numpy(), points)


def test_unusable_points_are_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.tiff is missing"):
        load_xyz(tmp_path / "none.tiff")
    (tmp_path / "text.tiff").write_text("no image")
    with pytest.raises(DataError, match=r"text\.tiff cannot be read"):
        load_xyz(tmp_path / "text.tiff")
    tifffile.imwrite(tmp_path / "flat.tiff", np.zeros((4, 5), np.float32))
    with pytest.raises(DataError, match=r"flat\.tiff has shape \(4, 5\)"):
        load_xyz(tmp_path / "flat.tiff")
    tifffile.imwrite(tmp_path / "whole.tiff", np.ones((40, 40, 3), np.float32), photometric="rgb")
    (tmp_path / "cut.tiff").write_bytes((tmp_path / "whole.tiff").read_bytes()[:3000])
    with pytest.raises(DataError, match=r"cut\.tiff"):
        load_xyz(tmp_path / "cut.tiff")
