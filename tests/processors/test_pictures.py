"""Pictures of every kind a folder holds: good ones by their colours, bad ones by what is said."""

import struct
import tarfile
import zlib
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from lm.errors import UserError
from lm.processors.pictures import VOID, Picture, nearest, read_mask, read_picture

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def written(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(width: int, height: int, depth: int, colours: int, rows: bytes) -> bytes:
    """A PNG by its format's rules, of kinds that Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    """64 by 48, smooth in all colours."""
    y, x = np.mgrid[0:48, 0:64]
    return Image.fromarray(np.stack([x * 4, y * 5, 255 - x * 2 - y], axis=2).astype(np.uint8))


def test_colours_of_every_mode():
    alpha = Image.new("RGBA", (3, 2), (255, 0, 0, 0))
    alpha.putpixel((1, 0), (0, 0, 255, 255))
    alpha.putpixel((2, 0), (0, 0, 0, 128))
    pixels = read_picture(written(alpha), "a").pixels
    assert pixels.shape == (2, 3, 3) and pixels.dtype == np.uint8
    assert pixels[0].tolist() == [list(WHITE), list(BLUE), [127] * 3]

    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, *GREEN])
    palette.putpixel((1, 0), 1)
    assert read_picture(written(palette), "p").pixels.tolist() == [[list(RED), list(GREEN)]]
    see_through = read_picture(written(palette, transparency=0), "p").pixels
    assert see_through.tolist() == [[list(WHITE), list(GREEN)]]

    deep = Image.fromarray(np.array([[0, 200, 257, 32896, 65535]], dtype=np.uint16))
    for kind in ("PNG", "TIFF"):
        assert read_picture(written(deep, kind), "d").pixels[0, :, 0].tolist() == [0, 1, 1, 128, 255]
    # 16 bits of each of three colours.
    rows = b"\0" + struct.pack(">6H", 65535, 0, 257 * 7, 0, 65535, 0)
    assert read_picture(png(2, 1, 16, 2, rows), "d").pixels.tolist() == [[[255, 0, 7], [0, 255, 0]]]

    grey = Image.new("L", (1, 1), 77)
    assert read_picture(written(grey), "g").pixels.tolist() == [[[77] * 3]]
    assert read_picture(written(Image.new("1", (1, 1), 1)), "b").pixels.tolist() == [[list(WHITE)]]
    assert read_picture(written(Image.new("LA", (1, 1), (0, 0))), "l").pixels.tolist() == [[list(WHITE)]]
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    assert np.abs(read_picture(written(cyan, "JPEG"), "c").pixels - np.array([0, 255, 255])).max() <= 1
    assert read_picture(written(cyan, "TIFF"), "c").pixels[0, 0].tolist() == [0, 255, 255]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_of_a_film_the_first_frame(kind):
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, GREEN, BLUE)]
    data = written(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    assert Image.open(BytesIO(data)).n_frames == 3
    assert read_picture(data, "film").pixels[0, 0].tolist() == list(RED)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_stands_as_the_camera_was_held(photo, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = np.asarray(photo)
    # What the eight say, by the EXIF standard: where the stored first row and first column are.
    turn = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90,
    }[orientation]
    assert np.array_equal(read_picture(written(photo, exif=exif), "turned").pixels, turn(upright))


def test_a_large_jpeg_is_decoded_smaller(photo):
    large = photo.resize((1600, 1200), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    flat, high = (written(large, "JPEG", quality=95, **more) for more in ({}, {"exif": exif}))
    assert read_picture(flat, "a", at_least=(300, 400)).size == (300, 400)
    assert read_picture(flat, "a", at_least=(301, 200)).size == (600, 800)
    assert read_picture(flat, "a", at_least=(1300, 1)).size == (1200, 1600)
    assert read_picture(high, "a", at_least=(400, 300)).size == (400, 300)
    assert read_picture(high, "a", at_least=(400, 301)).size == (800, 600)
    assert read_picture(written(large), "png", at_least=(2, 2)).size == (1200, 1600)
    small = read_picture(flat, "a", at_least=(150, 200)).pixels.astype(int)
    reference = np.asarray(large.resize((200, 150), Image.Resampling.BOX)).astype(int)
    assert np.abs(small - reference).mean() < 1


def test_bad_files_are_named(photo):
    # Colours by chance, so that there is much to cut off.
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"):
        whole = written(noise, kind)
        for share in (0.9, 0.5, 0.2):
            with pytest.raises(UserError, match=r"^x/y\.\w+"):
                read_picture(whole[: int(len(whole) * share)], f"x/y.{kind.lower()}")
    for kind in ("JPEG", "PNG"):
        whole = written(noise, kind)
        with pytest.raises(UserError, match=r"^cut: the picture is cut short: get it again or leave it out$"):
            read_picture(whole[: len(whole) // 2], "cut")
    for data in (b"These are words.", b"", b"\x89PNG\r\n\x1a\n", b"<svg></svg>"):
        with pytest.raises(
            UserError, match=r"^notes\.png is no picture, or none of a kind that Pillow reads$"
        ):
            read_picture(data, "notes.png")
    with pytest.raises(UserError, match="real: the picture is damaged: its pixels are no whole numbers"):
        read_picture(written(Image.new("F", (2, 2)), "TIFF"), "real")


def test_any_byte_may_be_wrong(photo, recwarn):
    """Whatever is in a file, it is a picture or an error that names it, and nothing else is said."""
    rng = np.random.default_rng(1)
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "TIFF"):
        whole = np.frombuffer(written(photo, kind, exif=exif), dtype=np.uint8)
        for _ in range(60):
            broken = whole.copy()
            places = rng.integers(len(broken) if rng.random() < 0.5 else min(200, len(broken)), size=3)
            broken[places] = rng.integers(256, size=3)
            try:
                assert read_picture(broken.tobytes(), "there").pixels.shape[2] == 3
            except UserError as error:
                assert str(error).startswith("there")
    assert not recwarn


def test_a_bomb_is_not_decoded():
    rows = bytes(20_000 * 2501)
    for side in (20_000, 12_000, 10_001):  # Pillow refuses, warns, warns
        bomb = png(side, side, 1, 0, rows[: side * (side // 8 + 1)])
        assert len(bomb) < 300_000
        for read in (read_picture, read_mask):
            with pytest.raises(UserError, match="bomb: the picture has more than 100 million pixels"):
                read(bomb, "bomb")
    assert read_picture(png(1, 1, 8, 0, b"\0\7"), "dot").pixels.tolist() == [[[7, 7, 7]]]


def test_masks_keep_their_numbers():
    palette = Image.new("P", (3, 1))
    palette.putpalette(bytes(range(256)) * 3)
    for place, value in enumerate((2, 0, 255)):
        palette.putpixel((place, 0), value)
    assert read_mask(written(palette), "m").tolist() == [[2, 0, 255]]
    assert read_mask(written(palette), "m").dtype == np.uint8
    grey = Image.fromarray(np.array([[0, 11, 200]], dtype=np.uint8))
    assert read_mask(written(grey), "m").tolist() == [[0, 11, 200]]
    deep = Image.fromarray(np.array([[0, 300, 65535]], dtype=np.uint16))
    assert read_mask(written(deep), "m").tolist() == [[0, 300, 65535]]
    assert read_mask(written(deep), "m").dtype == np.int32
    # Greys of 1, 2 and 4 bits.
    assert read_mask(png(4, 1, 1, 0, b"\0\xa0"), "m").tolist() == [[1, 0, 1, 0]]
    assert read_mask(png(4, 1, 2, 0, b"\0\x1b"), "m").tolist() == [[0, 1, 2, 3]]
    assert read_mask(png(3, 1, 4, 0, b"\0\x0b\xf0"), "m").tolist() == [[0, 11, 15]]
    with pytest.raises(UserError, match=r"m\.png: a mask has one number a pixel, this has colours \(RGB\)"):
        read_mask(written(Image.new("RGB", (2, 2))), "m.png")
    with pytest.raises(UserError, match="m: a mask can't be a JPEG"):
        read_mask(written(grey, "JPEG"), "m")
    with pytest.raises(UserError, match="cut short"):
        whole = written(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)))
        read_mask(whole[:2000], "m")


def test_a_window_may_reach_beyond():
    picture = Picture(
        np.arange(24, dtype=np.uint8).reshape(2, 4, 3),
        np.float32([[0, 0, 2, 2], [3, 1, 4, 2], [0, 0, 4, 2]]),
        np.array([5, 6, 7]),
        np.uint8([[1, 2, 3, 4], [5, 6, 7, 8]]),
    )
    window = replace(picture, fill=(9, 9, 9)).cut(-1, 1, 4, 2)
    assert window.mask.tolist() == [[VOID] * 2, [2, 3], [6, 7], [VOID] * 2]
    assert window.pixels[0].tolist() == [[9] * 3] * 2 and window.pixels[1, 0].tolist() == [3, 4, 5]
    assert window.boxes.tolist() == [[0, 1, 1, 3], [0, 1, 2, 3]] and window.labels.tolist() == [5, 7]
    assert window.boxes.dtype == np.float32
    assert picture.cut(0, 1, 2, 2, least=0.5).labels.tolist() == [5, 7]
    assert picture.cut(0, 1, 2, 2, least=0.51).labels.tolist() == []
    assert picture.cut(50, -50, 3, 3).mask.tolist() == [[VOID] * 3] * 3


def test_the_nearest_pixel_is_pillows():
    rng = np.random.default_rng(0)
    for height, width, new_height, new_width in rng.integers(1, 40, (50, 4)).tolist():
        labels = rng.integers(0, 256, (height, width), dtype=np.uint8)
        image = Image.fromarray(labels).resize((new_width, new_height), Image.Resampling.NEAREST)
        rows, columns = (
            (2 * np.arange(new) + 1) * old % (2 * new) > 0  # no middle between two pixels
            for new, old in ((new_height, height), (new_width, width))
        )
        same = nearest(labels, new_height, new_width) == np.asarray(image)
        assert same[rows][:, columns].all()


@pytest.mark.real_data
def test_real_pictures_of_four_kinds(real_data):
    sizes = {}
    for name, wanted in (("imagenet-sample/imagenet_25", ""), ("camvid/camvid", "val")):
        with tarfile.open(real_data / f"{name}.tar") as archive:
            for member in archive:
                if not (member.isfile() and member.name.startswith(wanted)):
                    continue
                data = archive.extractfile(member).read()
                if "annot" in member.name:
                    mask = read_mask(data, member.name)
                    assert mask.shape == (180, 240) and mask.max() <= 11
                else:
                    sizes[member.name] = read_picture(data, member.name).size
    assert len(sizes) == 25 + 101
    assert {size for name, size in sizes.items() if name.startswith("val/")} == {(180, 240)}
