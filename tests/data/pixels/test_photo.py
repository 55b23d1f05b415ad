import io
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from mixjax.data.pixels import photo, resample
from mixjax.data.pixels.photo import Rule, Unreadable
from mixjax.errors import UserError


def scene(height, width, seed=0):
    """(H, W, 3) uint8, smooth as photographs are, with edges."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (7, 9, 3), np.uint8))
    image = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    image[height // 3 : height // 2, width // 4 : width // 2] += 70
    return np.clip(image + random.integers(-9, 10, image.shape), 0, 255).astype(np.uint8)


def packed(image, form='JPEG', **options):
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def pillow(data):
    return Image.open(io.BytesIO(data))


GREY_RAMP = np.tile(np.linspace(0, 255, 33).astype(np.uint8), (20, 1))
PICTURES = {
    'jpeg': lambda: packed(scene(51, 67)),
    'progressive': lambda: packed(scene(51, 67), progressive=True),
    'not subsampled': lambda: packed(scene(51, 67), subsampling=0),
    'with restart marks': lambda: packed(scene(51, 67), restart_marker_blocks=2),
    'grey jpeg': lambda: packed(Image.fromarray(scene(51, 67)).convert('L')),
    'cmyk jpeg': lambda: packed(Image.fromarray(scene(51, 67)).convert('CMYK')),
    'one pixel': lambda: packed(scene(16, 16)[:1, :1]),
    'png': lambda: packed(scene(20, 30), 'PNG'),
    'grey png': lambda: packed(Image.fromarray(GREY_RAMP), 'PNG'),
    'black and white png': lambda: packed(Image.fromarray(GREY_RAMP).convert('1'), 'PNG'),
    'palette png': lambda: packed(Image.fromarray(scene(20, 30)).convert('P'), 'PNG'),
    'transparent palette png': lambda: packed(
        Image.fromarray(scene(20, 30)).quantize(7), 'PNG', transparency=bytes([0, 9, 80, 255])
    ),
    'transparent png': lambda: packed(np.dstack([scene(20, 30), scene(20, 30)[..., :1]]), 'PNG'),
    'transparent grey png': lambda: packed(Image.fromarray(GREY_RAMP).convert('LA'), 'PNG'),
    'gif': lambda: packed(Image.fromarray(scene(20, 30)).convert('P'), 'GIF'),
    'moving gif': lambda: packed(
        Image.fromarray(scene(20, 30)).convert('P'),
        'GIF',
        save_all=True,
        append_images=[Image.fromarray(scene(20, 30, seed=1)).convert('P')],
    ),
    'webp': lambda: packed(scene(20, 30), 'WEBP', lossless=True),
    'bmp': lambda: packed(scene(20, 30), 'BMP'),
    'tiff': lambda: packed(scene(20, 30), 'TIFF'),
}


@pytest.mark.parametrize('name', PICTURES)
def test_every_kind_of_file_has_the_pixels_that_pillow_gives(name):
    data = PICTURES[name]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('warnings.warn', lambda *_, **__: None)  # of the reference: RGB has no transparency
        colour = pillow(data).convert('RGB')
    image = photo.decode(data)
    assert image.dtype == np.uint8 and image.ndim == 3 and image.flags.c_contiguous
    np.testing.assert_array_equal(image, np.asarray(colour))
    np.testing.assert_array_equal(photo.decode(data, channels=1)[..., 0], np.asarray(colour.convert('L')))


def test_a_cmyk_picture_of_adobe_is_not_inverted():
    """Photoshop stores CMYK JPEGs inverted and says so in a segment of its own; so does Pillow."""
    white = packed(Image.new('CMYK', (16, 16), (0, 0, 0, 0)))
    assert b'Adobe' in white and (photo.decode(white) > 250).all()
    red = photo.decode(packed(Image.new('CMYK', (16, 16), (0, 255, 255, 0))))
    assert (red[..., 0] > 250).all() and (red[..., 1:] < 5).all()


def test_sixteen_bits_keep_the_upper_eight():
    deep = np.arange(0, 65536, 999).astype(np.uint16)[None]
    grey = packed(Image.fromarray(deep), 'PNG')
    np.testing.assert_array_equal(photo.decode(grey, channels=1)[0, :, 0], deep[0] >> 8)
    np.testing.assert_array_equal(photo.decode(grey), np.repeat((deep >> 8)[..., None], 3, axis=2))


def test_alpha_is_ignored():
    image = scene(8, 8)
    hidden = np.dstack([image, np.zeros((8, 8), np.uint8)])
    np.testing.assert_array_equal(photo.decode(packed(hidden, 'PNG')), image)


@pytest.mark.parametrize('form', ['JPEG', 'PNG', 'WEBP'])
@pytest.mark.parametrize('turn', range(1, 9))
def test_a_picture_is_turned_only_where_asked(turn, form):
    exif = Image.Exif()
    exif[0x0112] = turn
    data = packed(scene(24, 40), form, exif=exif)
    stored = np.asarray(pillow(data).convert('RGB'))
    np.testing.assert_array_equal(photo.decode(data), stored)
    seen = np.asarray(ImageOps.exif_transpose(pillow(data)).convert('RGB'))
    turned = photo.decode(data, upright=True)
    np.testing.assert_array_equal(turned, seen)
    assert turned.shape == ((40, 24, 3) if turn >= 5 else (24, 40, 3)) and turned.flags.c_contiguous


def test_invalid_orientation_is_ignored():
    for tag in (0, 9, 77):
        exif = Image.Exif()
        exif[0x0112] = tag
        data = packed(scene(24, 40), exif=exif)
        np.testing.assert_array_equal(photo.decode(data, upright=True), photo.decode(data))
    damaged = packed(scene(24, 40), exif=b'Exif\0\0' + b'\xee' * 30)
    np.testing.assert_array_equal(photo.decode(damaged, upright=True), photo.decode(damaged))


# --- what is no picture -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize('share', [0.02, 0.3, 0.5, 0.9, 0.98])
@pytest.mark.parametrize('name', ['jpeg', 'progressive', 'grey jpeg', 'cmyk jpeg', 'png', 'gif', 'webp', 'bmp'])
def test_a_picture_that_is_cut_short_is_refused(name, share):
    data = PICTURES[name]()
    with pytest.raises(Unreadable, match='short|damaged|not a picture'):
        photo.decode(data[: int(share * len(data))])


@pytest.mark.parametrize('options', [{}, {'subsampling': 0}])
def test_jpeg_without_its_middle_is_refused(options):
    data = packed(scene(180, 240), **options)
    for first, last in ((0.4, 0.6), (0.5, 0.9)):
        holed = data[: int(first * len(data))] + data[int(last * len(data)) :]
        with pytest.raises(Unreadable):
            photo.decode(holed)


def test_a_jpeg_that_ends_in_zeros_is_refused():
    """A copy that was stopped, of which the file system had made the room."""
    data = packed(scene(90, 120))
    for end in (b'', b'\xff\xd9'):
        with pytest.raises(Unreadable):
            photo.decode(data[: len(data) // 2] + bytes(len(data) // 2) + end)


@pytest.mark.parametrize('options', [{}, {'progressive': True}, {'restart_marker_blocks': 1}])
@pytest.mark.parametrize('mode', ['L', 'RGB'])
def test_a_picture_that_is_grey_in_its_corner_is_read(options, mode):
    """The grey of missing data may also be the grey of the picture."""
    image = scene(64, 80)
    image[32:] = 128
    data = packed(Image.fromarray(image).convert(mode), subsampling=0, **options)
    read = photo.decode(data)
    assert (read[-1, -1] == 128).all()
    np.testing.assert_array_equal(read, np.asarray(pillow(data).convert('RGB')))
    trailing = data + b'notes of a camera'
    np.testing.assert_array_equal(photo.decode(trailing), read)


def test_a_damaged_png_is_refused():
    data = bytearray(PICTURES['png']())
    data[len(data) // 2] ^= 255
    with pytest.raises(Unreadable):
        photo.decode(bytes(data))


@pytest.mark.parametrize(
    'data',
    [b'', b'\xff\xd8', b'\xff\xd8\xff\xe0', b'\xff\xd8' + bytes(99), b'GIF89a', b'a text', b'%!PS-Adobe EPSF\n' * 9],
)
def test_other_files_than_pictures_are_refused(data):
    with pytest.raises(Unreadable) as refused:
        photo.decode(data)
    assert str(refused.value).startswith(('it is ', 'its ')) and '\n' not in str(refused.value)


def claiming(width, height):
    """A PNG of a few bytes whose header claims that size."""

    def chunk(kind, data):
        return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)

    header = width.to_bytes(4) + height.to_bytes(4) + bytes([8, 2, 0, 0, 0])
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(bytes(9))) + chunk(b'IEND', b'')


def test_huge_dimensions_are_refused_before_allocation():
    data = bytearray(PICTURES['jpeg']())
    frame = data.index(b'\xff\xc0')
    data[frame + 5 : frame + 9] = b'\xff\xff\xff\xff'
    with pytest.raises(Unreadable, match='65535 x 65535'):
        photo.decode(bytes(data))
    data[frame + 5 : frame + 7] = b'\0\0'
    with pytest.raises(Unreadable, match='no pixels'):
        photo.decode(bytes(data))
    with pytest.raises(Unreadable):
        photo.decode(claiming(60_000, 60_000))


# --- one size ---------------------------------------------------------------------------------------------------------

SIZES = [(375, 500), (500, 333), (64, 64), (256, 300), (300, 256), (40, 57), (683, 1024), (19, 700), (257, 259)]


def in_pillow(image, rule):
    """What torchvision does with a PIL image: Resize(side) and CenterCrop(side), or Resize((side, side)).

    In two passes, along the rows first, as every Pillow before 13 does on its own.
    """
    width, height = image.size
    how = Image.Resampling[rule.interpolation.upper()]
    if rule.fit == 'squash':
        return image.resize((rule.side, height), how).resize((rule.side, rule.side), how)
    if width <= height:
        size = rule.side, int(rule.side * height / width)
    else:
        size = int(rule.side * width / height), rule.side
    image = image if image.size == size else image.resize((size[0], height), how).resize(size, how)
    left, top = (int(round((length - rule.side) / 2.0)) for length in image.size)
    return image.crop((left, top, left + rule.side, top + rule.side))


@pytest.mark.parametrize('interpolation', photo.REACH)
@pytest.mark.parametrize('fit', photo.FITS)
def test_the_size_is_the_one_of_the_published_pipelines(fit, interpolation):
    for seed, (height, width) in enumerate(SIZES):
        for side in (64, 97, 256):
            rule = Rule(side, fit, interpolation)
            image = scene(height, width, seed)
            expected = np.asarray(in_pillow(Image.fromarray(image), rule)).astype(int)
            got = photo.fit(image, rule)
            assert got.dtype == np.uint8 and got.shape == (side, side, 3)
            wrong = np.abs(got - expected)
            assert wrong.max() <= (interpolation != 'nearest'), (height, width, side)
            assert np.mean(wrong > 0) < 5e-3


@pytest.mark.parametrize('size', [(30, 40, 3), (21, 9, 1), (300, 500, 3), (8, 8, 1), (100, 33, 3)])
def test_a_bilinear_resize_is_exact(size):
    """The same in integers of any size: no machine, and no order of adding, can give another picture."""
    image = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    rows, columns = (45, 1), (40, 0)
    expected = image
    for axis, (length, first) in ((1, columns), (0, rows)):
        how = resample._Blocks(size[axis], length, first, 37, 4)
        weights = np.zeros((len(how.table()[1]) * 4, size[axis]), np.int64)
        taken, by = how.table()
        for k, (places, block) in enumerate(zip(taken + how.begin, by, strict=True)):
            weights[4 * k : 4 * k + 4, places] = block * 65536
        assert (weights.sum(1) == 65536).all() and (weights >= 0).all()
        sums = np.moveaxis(np.tensordot(weights[:37], expected.astype(np.int64), (1, axis)), 0, axis)
        expected = (sums + 32768) >> 16
    np.testing.assert_array_equal(resample.bilinear(image, rows, columns, 37), expected)


def test_a_large_image_is_left_to_pillow():
    """BLAS would start threads of its own."""
    image = scene(1600, 2000)
    assert resample.bilinear(image, (256, 0), (320, 32), 256) is None
    expected = np.asarray(in_pillow(Image.fromarray(image), Rule()))
    assert np.abs(photo.fit(image, Rule()).astype(int) - expected).max() <= 1


def test_grey_images_are_brought_to_size_alike():
    image = scene(90, 131)[..., :1]
    for rule in (Rule(48, channels=1), Rule(48, 'squash', 'bicubic', channels=1), Rule(48, interpolation='nearest')):
        expected = np.asarray(in_pillow(Image.fromarray(image[..., 0]), rule))
        got = photo.fit(image, rule)
        assert got.shape == (48, 48, 1) and np.abs(got[..., 0].astype(int) - expected).max() <= 1


def test_an_image_of_the_right_size_keeps_its_pixels():
    image = scene(64, 100)
    np.testing.assert_array_equal(photo.fit(image, Rule(64)), image[:, 18:82])
    assert photo.fit(image, Rule(0)) is image
    np.testing.assert_array_equal(photo.fit(image[:, :64], Rule(64, 'squash')), image[:, :64])


def test_the_middle_is_where_torchvision_has_it():
    """Half a pixel is rounded to the even side: 5 - 2 = 3 spare columns leave 2 on the left, 1 spare leaves 0."""
    ramp = np.broadcast_to(np.arange(5, dtype=np.uint8)[None, :, None], (2, 5, 3))
    assert photo.fit(ramp, Rule(2))[0, :, 0].tolist() == [2, 3]
    assert photo.fit(ramp[:, :3], Rule(2))[0, :, 0].tolist() == [0, 1]


def test_a_thin_strip_costs_no_more_than_its_square():
    """Its longer side would be 30,000 pixels after resizing."""
    image = scene(2, 6000)
    got = photo.fit(image, Rule(100))
    assert got.shape == (100, 100, 3)


def test_read_decodes_and_resizes():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = packed(scene(60, 80), exif=exif)
    rule = Rule(32, 'squash', 'bicubic', upright=True, channels=1)
    expected = photo.fit(photo.decode(data, channels=1, upright=True), rule)
    np.testing.assert_array_equal(photo.read(data, rule), expected)
    assert expected.shape == (32, 32, 1)


@pytest.mark.parametrize(
    'rule', [Rule(-1), Rule(fit='crop'), Rule(interpolation='linear'), Rule(channels=4)], ids=lambda rule: str(rule)
)
def test_a_rule_that_cannot_be_followed_is_refused(rule):
    with pytest.raises(UserError, match='must be|have'):
        photo.check(rule)
    assert photo.check(Rule()) == Rule()


def test_decoders_are_imported_when_the_first_picture_is_read():
    script = (
        'import sys, mixjax.data.pixels.photo; '
        "print([m for m in ('cv2', 'PIL', 'jax', 'tensorflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'
