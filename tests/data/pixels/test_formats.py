"""Every format and bit depth that is promised, against Pillow or values computed by hand."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from mixjax.data.pixels import photo
from mixjax.data.pixels.photo import Unreadable
from tests.support import raw_images

HEIGHT, WIDTH = 20, 34


def noise(dtype='u1', channels=1, seed=0):
    """(H, W) or (H, W, C) values over the whole range of a type, its ends included; floats from 0 to 1."""
    random = np.random.default_rng(seed)
    shape = (HEIGHT, WIDTH, channels) if channels > 1 else (HEIGHT, WIDTH)
    dtype = np.dtype(dtype)
    if dtype.kind == 'f':
        values = random.random(shape).astype(dtype)
        values.flat[:2] = 0, 1
        return values
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    values = random.integers(low, high, shape, dtype, endpoint=True)
    values.flat[:2] = low, high
    return values


def upper(values, bits=None):
    """Integers of any type as bytes: the position in the range of the type, in 256 steps."""
    low = int(np.iinfo(values.dtype).min)
    bits = bits or 8 * values.itemsize
    return ((values.astype(np.int64) - low) // 2 ** (bits - 8)).astype(np.uint8)


def three(grey):
    return np.repeat(grey[..., None], 3, axis=2)


def saved(image, form, **options):
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def opened(data):
    return Image.open(io.BytesIO(data))


def check(data, expected):
    """Decoding gives the expected colours, and grey as Pillow makes it of them."""
    np.testing.assert_array_equal(photo.decode(data), expected)
    grey = np.asarray(Image.fromarray(np.ascontiguousarray(expected)).convert('L'))[..., None]
    np.testing.assert_array_equal(photo.decode(data, channels=1), grey)


# --- how the camera was held ------------------------------------------------------------------------------------------

# What each orientation does to an image, as EXIF defines it: which corner the first row and column of the file are.
SEEN = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description tiff:Orientation="{}"/></rdf:RDF></x:xmpmeta>'


def tagged(form, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    image = noise(channels=3)
    if form == 'tiff':
        return raw_images.tiff(image, orientation=turn)
    if form == 'tiff by Pillow':
        return saved(image, 'TIFF', exif=exif)
    if form == 'tiff, large end first, tiled and packed':
        return raw_images.tiff(image, orientation=turn, order='>', tile=16, deflate=True)
    if form == 'tiff of 16 bits':
        return raw_images.tiff(noise('u2'), orientation=turn)
    if form == 'tiff of floats, packed':
        return raw_images.tiff(noise('f4'), orientation=turn, deflate=True)
    if form == 'png, before its data':
        return raw_images.png(image, before=raw_images.chunk(b'eXIf', raw_images.exif(turn)))
    if form == 'png, after its data':
        return raw_images.png(image, after=raw_images.chunk(b'eXIf', raw_images.exif(turn)))
    if form == 'png of 16 bits':
        return raw_images.png(noise('u2'), 16, before=raw_images.chunk(b'eXIf', raw_images.exif(turn)))
    if form == 'jpeg by XMP':
        return saved(image, 'JPEG', xmp=XMP.format(turn).encode())
    if form == 'jpeg, after a large profile':
        return saved(image, 'JPEG', exif=exif, icc_profile=bytes(3 * 65000))
    if form == 'cmyk jpeg':
        return saved(Image.fromarray(image).convert('CMYK'), 'JPEG', exif=exif)
    return saved(image, form, exif=exif)


FORMS = [
    'tiff', 'tiff by Pillow', 'tiff, large end first, tiled and packed', 'tiff of 16 bits', 'tiff of floats, packed',
    'png, before its data', 'png, after its data', 'png of 16 bits', 'PNG', 'JPEG', 'jpeg by XMP',
    'jpeg, after a large profile', 'cmyk jpeg', 'WEBP',
]  # fmt: skip


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('turn', SEEN)
def test_an_image_is_turned_once_and_only_where_asked(turn, form):
    stored = photo.decode(tagged(form, 1))
    data = tagged(form, turn)
    np.testing.assert_array_equal(photo.decode(data), stored)
    np.testing.assert_array_equal(photo.decode(data, upright=True), SEEN[turn](stored))
    picture = opened(data)
    if picture.mode not in ('I', 'F', 'I;16', 'I;16B'):
        seen = np.asarray(ImageOps.exif_transpose(picture).convert('RGB'))
        np.testing.assert_array_equal(photo.decode(data, upright=True), seen)


@pytest.mark.parametrize('tag', [0, 9, 77])
def test_tiff_with_an_invalid_orientation_is_not_rotated(tag):
    image = noise(channels=3)
    data = raw_images.tiff(image, orientation=tag)
    for upright in (False, True):
        np.testing.assert_array_equal(photo.decode(data, upright=upright), image)


# --- other types than bytes -------------------------------------------------------------------------------------------

DEEP = ['u2', 'i1', 'i2', 'u4', 'i4', 'f4']


@pytest.mark.parametrize('deflate', [False, True], ids=['raw', 'packed'])
@pytest.mark.parametrize('order', '<>')
@pytest.mark.parametrize('dtype', DEEP)
@pytest.mark.parametrize('photometric', [0, 1], ids=['0 is white', '0 is black'])
@pytest.mark.parametrize('shape', ['strip', 'tiles', 'pages'])
def test_tiff_values_of_every_type_are_scaled_by_its_range_or_refused(dtype, photometric, order, deflate, shape):
    values = noise(dtype)
    data = raw_images.tiff(
        values, photometric=photometric, order=order, deflate=deflate, tile=16 * (shape == 'tiles'),
        pages=3 if shape == 'pages' else 1,
    )  # fmt: skip
    expected = np.floor(values.astype(float) * 255 + 0.5).astype(np.uint8) if dtype == 'f4' else upper(values)
    expected = 255 - expected if photometric == 0 else expected
    refused = (
        (dtype in ('i1', 'i2', 'i4', 'u4') and photometric == 0)
        or (dtype == 'u2' and photometric == 0 and order == '>')
        or (dtype == 'u4' and order == '>')
        or (dtype in ('i2', 'i4', 'f4') and order == '>' and deflate)
    )
    if refused:
        with pytest.raises(Unreadable, match='save it'):
            photo.decode(data)
    else:
        check(data, three(expected))
        assert expected.min() == 0 and expected.max() == 255


@pytest.mark.parametrize('bits', [1, 2, 4, 12])
@pytest.mark.parametrize('deflate', [False, True])
def test_tiff_values_of_fewer_bits(bits, deflate):
    values = noise('u2') >> 16 - bits
    data = raw_images.tiff(values, bits=bits, deflate=deflate)
    check(data, three((values * 255 // (2**bits - 1) if bits < 8 else values >> 4).astype(np.uint8)))


@pytest.mark.parametrize('dtype', ['u1', 'u2'])
@pytest.mark.parametrize('order', '<>')
@pytest.mark.parametrize('tile', [0, 16])
@pytest.mark.parametrize('planar', [False, True])
@pytest.mark.parametrize('deflate', [False, True])
def test_tiff_colours(dtype, order, tile, planar, deflate):
    if planar and dtype == 'u2' and not deflate:
        pytest.skip('refused: see the next test')
    values = noise(dtype, channels=3)
    check(raw_images.tiff(values, order=order, tile=tile, planar=planar, deflate=deflate), upper(values))


@pytest.mark.parametrize('order', '<>')
@pytest.mark.parametrize('tile', [0, 16])
def test_planes_of_sixteen_bits_without_compression_are_refused(order, tile):
    """Pillow reads them as bytes."""
    with pytest.raises(Unreadable, match='planes of 16 bits'):
        photo.decode(raw_images.tiff(noise('u2', channels=3), order=order, tile=tile, planar=True))


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA', 'CMYK', 'YCbCr', 'RGBX'])
@pytest.mark.parametrize('compression', ['raw', 'tiff_lzw', 'tiff_adobe_deflate', 'packbits', 'jpeg', 'group4'])
def test_tiff_modes_of_pillow(mode, compression):
    if (compression == 'group4') != (mode == '1') and compression != 'raw':
        pytest.skip('no such file')
    if compression == 'jpeg' and mode not in ('L', 'RGB', 'CMYK', 'YCbCr'):
        pytest.skip('no such file')
    picture = Image.fromarray(noise(channels=3)).convert('P' if mode == 'PA' else mode)
    picture = picture.convert(mode) if mode == 'PA' else picture
    data = saved(picture, 'TIFF', compression=compression)
    check(data, np.asarray(opened(data).convert('RGB')))


def test_tiffs_of_colours_that_pillow_does_not_convert():
    lab = raw_images.tiff(noise(channels=3), photometric=8)
    with pytest.raises(Unreadable, match='L.a.b'):
        photo.decode(lab)
    # Premultiplied grey and alpha: 100 at half opacity is 50.
    values = np.zeros((4, 5, 2), np.uint8) + np.array([50, 128], np.uint8)
    assert (photo.decode(raw_images.tiff(values, tags={338: (1,)})) == 50 * 255 // 128).all()


@pytest.mark.parametrize(
    ('values', 'word'),
    [
        (np.array([[0.0, 1.5]], 'f4'), 'from 0 to 1.5'), (np.array([[-0.1, 1.0]], 'f4'), 'from -0.1 to 1'),
        (np.array([[0.0, np.nan]], 'f4'), 'nan'), (np.array([[0.0, np.inf]], 'f4'), 'inf'),
        (np.array([[0.0, 255.0]], 'f4'), 'save it as 8 or 16 bit'),
        (np.array([[0.0, 0.001]], 'f4'), 'a tiny part of the range of their type'),
        (np.array([[0, 255]], 'u4'), 'from 0 to 255, which is a tiny part'),
        (np.array([[0, 65535]], 'i4'), 'from 0 to 65,535, which is a tiny part'),
        (np.array([[0, 255]], 'u2'), 'from 0 to 255, which is a tiny part of the range'),
        (np.array([[7, 200]], 'i2'), 'a tiny part'),
    ],
)  # fmt: skip
def test_values_that_would_collapse_to_one_grey_are_refused(values, word):
    files = [raw_images.tiff(values)]
    if values.dtype == 'f4':
        files.append(raw_images.pnm('f', values, '-1.0'))
    if values.dtype == 'u2':
        files += [
            raw_images.png(values, 16),
            raw_images.pnm('5', values, '65535'),
            raw_images.pnm('2', values, '65535'),
        ]
    for data in files:
        with pytest.raises(Unreadable, match=word):
            photo.decode(data)


def test_an_image_of_one_value_has_no_contrast_to_lose():
    assert (photo.decode(raw_images.tiff(np.full((3, 4), 70_000, np.uint32))) == 0).all()
    assert (photo.decode(raw_images.tiff(np.full((3, 4), 0.5, np.float32))) == 128).all()
    assert (photo.decode(raw_images.png(np.full((3, 4), 0x1234, np.uint16), 16)) == 0x12).all()


# --- PNG --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('bits', [1, 2, 4, 8, 16])
def test_png_greys_of_every_depth(bits):
    values = (noise('u2') >> 16 - bits).astype('u2' if bits == 16 else 'u1')
    stored = values.astype('>u2') if bits == 16 else values
    data = raw_images.png(stored, 8 * stored.itemsize) if bits >= 8 else raw_images.png(values, bits)
    check(data, three(values >> 8 if bits == 16 else values * (255 // (2**bits - 1))).astype(np.uint8))


@pytest.mark.parametrize('channels', [2, 3, 4])
@pytest.mark.parametrize('bits', [8, 16])
def test_png_colours_and_alpha(channels, bits):
    values = noise('u1' if bits == 8 else 'u2', channels=channels)
    top = upper(values)
    data = raw_images.png(values.astype('>u2') if bits == 16 else values, bits)
    check(data, three(top[..., 0]) if channels == 2 else top[..., :3])
    np.testing.assert_array_equal(photo.decode(data), np.asarray(opened(data).convert('RGB')))


@pytest.mark.parametrize('bits', [1, 2, 4, 8])
def test_png_palettes(bits):
    values = noise() >> 8 - bits
    palette = np.random.default_rng(1).integers(0, 256, (2**bits, 3), np.uint8)
    before = raw_images.chunk(b'PLTE', palette.tobytes())
    for alpha in (b'', raw_images.chunk(b'tRNS', bytes([0, 128]))):
        check(raw_images.png(values, bits, 3, before + alpha), palette[values])


# --- Netpbm -----------------------------------------------------------------------------------------------------------

MOST = [1, 7, 100, 254, 255, 256, 1023, 4095, 65534, 65535]


@pytest.mark.parametrize('most', MOST)
@pytest.mark.parametrize('kind', '2356')
def test_netpbm_values_are_those_of_pillow(kind, most):
    colour = kind in '36'
    values = noise('u4', channels=3 if colour else 1).astype(np.int64) % (most + 1)
    values.flat[:2] = 0, most
    data = raw_images.pnm(kind, values, str(most), comment='# 1 2 3\n#\n')
    if colour or most < 256:
        expected = np.asarray(opened(data).convert('RGB'))
    else:  # Pillow clips them to 255
        expected = three((np.asarray(opened(data)).astype(np.int64) >> 8).astype(np.uint8))
    check(data, expected)
    exact = values / most * 255
    assert np.abs(photo.decode(data)[..., : 3 if colour else 1].reshape(values.shape) - exact).max() < 1


@pytest.mark.parametrize('width', [1, 7, 8, 9, 34])
@pytest.mark.parametrize('kind', '14')
def test_netpbm_bitmaps_are_those_of_pillow(kind, width):
    values = noise()[:, :width] & 1
    data = raw_images.pnm(kind, values)
    check(data, three(255 * (1 - values)))
    np.testing.assert_array_equal(photo.decode(data), np.asarray(opened(data).convert('RGB')))


def test_ascii_bitmap_digits_need_no_spaces():
    assert photo.decode(b'P1 3 2\n01#a\n0 1\n10')[..., 0].tolist() == [[255, 0, 255], [0, 0, 255]]


@pytest.mark.parametrize('most', ['-1.0', '1.0'])
def test_portable_float_maps(most):
    grey, colour = noise('f4'), noise('f4', channels=3)
    check(raw_images.pnm('f', grey, most), three(np.floor(grey.astype(float) * 255 + 0.5).astype(np.uint8)))
    check(raw_images.pnm('F', colour, most), np.floor(colour.astype(float) * 255 + 0.5).astype(np.uint8))
    np.testing.assert_array_equal(np.asarray(opened(raw_images.pnm('f', grey, most))), grey)
    with pytest.raises(Unreadable, match='scale of 255'):
        photo.decode(raw_images.pnm('f', grey, '-255'))


@pytest.mark.parametrize(
    'data',
    [
        b'P5', b'P5 2', b'P5 2 2', b'P5 2 2 255', b'P5 2 2 255 abc', b'P5 2 2 0 abcd', b'P5 2 2 65536 aabbccdd',
        b'P5 2 2 -5 abcd', b'P5 0 2 255 ', b'P5 2 2 1e2 abcd', b'P2 2 2 255 1 2 3', b'P2 2 2 255 1 2 3 x',
        b'P2 2 2 255 1 2 3 256', b'P2 2 2 255 1 2 3 -1', b'P2 2 2 255 1 2 3 00000000004', b'P1 2 2 0 1 2 1',
        b'P1 2 2 0 1 1', b'P6 1 1 255 ab', b'Pf 1 1 nan abcd', b'Pf 1 1 0 abcd', b'Pf 1 1 -1 abc', b'P7\nWIDTH 1',
        b'P2 1 1 255 #' + b'9' * 99, b'P2 99999999999 1 255 1',
    ],
)  # fmt: skip
def test_netpbm_files_that_are_damaged(data):
    with pytest.raises(Unreadable) as refused:
        photo.decode(data)
    assert '\n' not in str(refused.value)


# --- GIF, BMP, WEBP, JPEG ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize('mode', ['1', 'L', 'P', 'RGB', 'RGBA'])
@pytest.mark.parametrize('form', ['GIF', 'BMP', 'PNG', 'WEBP', 'PPM'])
def test_modes_of_pillow(form, mode):
    if (form, mode) == ('PPM', 'P'):
        pytest.skip('no such file')
    data = saved(Image.fromarray(noise(channels=3)).convert(mode), form)
    picture = opened(data)
    picture.load()
    picture.info.pop('transparency', None)
    check(data, np.asarray(picture.convert('RGB')))


@pytest.mark.parametrize('mode', ['L', 'RGB', 'CMYK', 'YCbCr'])
@pytest.mark.parametrize('options', [{}, {'progressive': True}, {'subsampling': 0}, {'quality': 100}])
def test_jpegs_of_every_kind(mode, options):
    data = saved(Image.fromarray(noise(channels=3)).convert(mode), 'JPEG', **options)
    check(data, np.asarray(opened(data).convert('RGB')))


def test_a_jpeg_of_twelve_bits_is_refused():
    data = bytearray(saved(noise(channels=3), 'JPEG'))
    data[data.index(b'\xff\xc0') + 4] = 12
    with pytest.raises(Unreadable, match='JPEG of 12 bits'):
        photo.decode(bytes(data))


@pytest.mark.parametrize('channels', [1, 3])
def test_large_images_are_converted_in_parts(channels, monkeypatch):
    """The strips of a conversion are seen nowhere."""
    whole = {}
    files = {
        'p': saved(Image.fromarray(noise(channels=3)).convert('P'), 'PNG'), 'rgba': raw_images.png(noise(channels=4)),
        'deep': raw_images.png(noise('u2').astype('>u2'), 16), 'rgb': saved(noise(channels=3), 'JPEG'),
        'cmyk': saved(Image.fromarray(noise(channels=3)).convert('CMYK'), 'JPEG'),
        'pnm': raw_images.pnm('6', noise(channels=3) % 100, '99'),
    }  # fmt: skip
    for name, data in files.items():
        whole[name] = photo.decode(data, channels=channels)
    monkeypatch.setattr(photo, 'STRIP', 3 * WIDTH + 1)
    for name, data in files.items():
        np.testing.assert_array_equal(photo.decode(data, channels=channels), whole[name])
