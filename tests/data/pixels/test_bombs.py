"""Small files that would keep a decoder busy, and what only looks like a file."""

import io
import os
import struct
import tarfile
import time
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from mixjax.data.datasets.array_record import example
from mixjax.data.datasets.builders import archive
from mixjax.data.pixels import image_header, photo
from mixjax.data.pixels.photo import Unreadable
from mixjax.errors import UserError
from tests.support import raw_images

SECONDS = 8.0  # of the processor; far above what the limits leave, far below what the files took


@pytest.fixture(autouse=True)
def in_time():
    began = time.process_time()
    yield
    assert time.process_time() - began < SECONDS


def saved(picture, form, **options):
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def picture(mode='RGB', side=24):
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    return Image.fromarray(image).convert(mode)


# --- JPEG -------------------------------------------------------------------------------------------------------------


def scans(count, side):
    """A progressive JPEG whose last scan comes `count` times more."""
    data = saved(Image.new('L', (side, side), 77), 'JPEG', progressive=True)
    at = data.rfind(b'\xff\xc4', 0, data.rfind(b'\xff\xda'))
    return data[:-2] + data[at:-2] * count + data[-2:]


def test_scans_of_a_jpeg_are_counted_before_they_are_decoded():
    assert photo.decode(scans(0, 64)).shape == (64, 64, 3)
    assert photo.decode(scans(50, 64)).shape == (64, 64, 3)
    with pytest.raises(Unreadable, match='more than 100 scans'):
        photo.decode(scans(100_000, 64))
    with pytest.raises(Unreadable, match='more than 28 scans'):  # as many as take a few seconds
        photo.decode(scans(100, 10_000))


def test_scans_are_counted_in_the_coded_data_only():
    """Thumbnails and what follows the image have scans of their own."""
    data = saved(picture(), 'JPEG')
    right = photo.decode(data)
    segments = (b'\xff\xe1' + struct.pack('>H', 2002) + b'\xff\xda' * 1000) * 3
    np.testing.assert_array_equal(photo.decode(data[:2] + segments + data[2:] + b'\xff\xda\0\x04ab' * 500), right)


@pytest.mark.parametrize(
    'data',
    [
        b'\xff\xd8' + b'\xff' * 10**7, b'\xff\xd8' + b'\xff\xd0' * 10**6, b'\xff\xd8' + b'\xff\xfe\0\2' * 10**6,
        b'\xff\xd8' + b'\xff\0' * 10**7, b'\xff\xd8' + b'\xff\x01' * 10**6,
    ],
    ids=['fill bytes', 'restarts', 'comments', 'stuffing', 'marks'],
)  # fmt: skip
def test_headers_of_a_jpeg_without_an_end(data):
    with pytest.raises(Unreadable, match='JPEG'):
        photo.decode(data)


def test_many_segments_are_still_read():
    for mode in ('RGB', 'CMYK'):
        data = saved(picture(mode), 'JPEG')
        many = data[:2] + b'\xff\xfe\0\2' * 60_000 + data[2:]
        np.testing.assert_array_equal(photo.decode(many), photo.decode(data))


# --- the other formats ------------------------------------------------------------------------------------------------


def chunks(kind, data, count):
    return raw_images.png(np.zeros((4, 4, 3), np.uint8), before=raw_images.chunk(kind, data) * count)


def test_chunks_of_a_png():
    bomb = b'a\0\0' + zlib.compress(bytes(1 << 20), 9)
    for kind, data in ((b'tEXt', b'k\0v'), (b'abCd', b''), (b'iCCP', bomb), (b'zTXt', b'\0\0' + bomb[3:])):
        few = 60_000 if len(data) < 9 else 50
        assert photo.decode(chunks(kind, data, few)).shape == (4, 4, 3)
        with pytest.raises(Unreadable, match='more than [0-9,]+ PNG'):
            photo.decode(chunks(kind, data, 20 * few))


def test_blocks_of_a_gif():
    data = saved(picture('P'), 'GIF')
    at = 13 + (3 << (data[10] & 7) + 1)
    right = photo.decode(data)
    for block in (b'!\xfe' + b'\x01a' * 9000 + b'\0', b'!\xfe\x01a\0' * 9000, b'\0' * 9000):
        np.testing.assert_array_equal(photo.decode(data[:at] + block + data[at:]), right)
        with pytest.raises(Unreadable, match='more than 65,536 GIF blocks'):
            photo.decode(data[:at] + block * 300 + data[at:])
    frame = data[at:-1]
    np.testing.assert_array_equal(photo.decode(data[:at] + frame * 10_000 + b';'), right)


def test_comments_and_blanks_of_a_ppm():
    """Pillow takes the square of their number."""
    start = b'P3 2 1 255\n'
    for filler in (b'#\n' * 10**6, b' ' * 10**7, b'#' * 10**7 + b'\n'):
        assert photo.decode(start + filler + b'1 2 3 4 5 6').ravel().tolist() == [1, 2, 3, 4, 5, 6]
        with pytest.raises(Unreadable, match='end after 0 of 6 values'):
            photo.decode(start + filler)
        with pytest.raises(Unreadable, match='short or damaged'):
            photo.decode(b'P3 ' + filler)
    assert photo.decode(raw_images.pnm('6', np.zeros((1500, 2000, 3), np.uint16), '1023')).shape == (1500, 2000, 3)


def test_tiles_and_pages_of_a_tiff():
    grey = np.zeros((2560, 2560), np.uint8)
    assert photo.decode(raw_images.tiff(grey, tile=16)).shape == (2560, 2560, 3)
    with pytest.raises(Unreadable, match='more than 65,536 TIFF strips or tiles'):
        photo.decode(raw_images.tiff(np.zeros((257 * 16, 256 * 16), np.uint8), tile=16, deflate=True))
    assert photo.decode(raw_images.tiff(grey[:9, :9], pages=20_000)).shape == (9, 9, 3)
    data = bytearray(raw_images.tiff(grey[:9, :9]))
    data[-4:] = data[4:8]  # its next page is itself
    assert photo.decode(bytes(data)).shape == (9, 9, 3)
    with pytest.raises(Unreadable, match='claims 9 x 9 pixels|pixels'):  # a tile of 4 GB
        photo.decode(raw_images.tiff(grey[:9, :9], tags={322: (65535,), 323: (65535,), 324: (8,), 325: (81,)}))


def run_lengths(width, height, four=False):
    data = (b'\xff\x12' * (width // 255 + 1) + b'\0\0') * height
    palette = bytes(4 * (16 if four else 256))
    facts = (40, width, height, 1, 4 if four else 8, 2 if four else 1, len(data), 0, 0, 0, 0)
    head = b'BM' + struct.pack('<IHHI', 0, 0, 0, 54 + len(palette)) + struct.pack('<IiiHHIIiiII', *facts)
    return head + palette + data


def test_run_lengths_of_a_bmp():
    for four in (False, True):
        assert photo.decode(run_lengths(300, 200, four)).shape == (200, 300, 3)
        with pytest.raises(Unreadable, match='run-length encoded BMP of more than 16,777,216 pixels'):
            photo.decode(run_lengths(13_000, 13_000, four))


def test_a_webp_that_claims_more_than_it_may_is_refused_before_it_is_opened():
    head = b'RIFF' + struct.pack('<I', 22) + b'WEBPVP8X' + struct.pack('<I', 10) + bytes(4)
    data = head + (16382).to_bytes(3, 'little') + (16382).to_bytes(3, 'little')
    with pytest.raises(Unreadable, match='16383 x 16383 pixels; at most'):
        photo.decode(data)


@pytest.mark.parametrize('interpolation', photo.REACH)
@pytest.mark.parametrize('fit', photo.FITS)
@pytest.mark.parametrize('lies', [False, True])
def test_strips_of_one_pixel_are_resized_or_refused(lies, fit, interpolation):
    for length in (3000, 10**7 if interpolation in ('nearest', 'bilinear') else 2 * 10**5):
        shape = (1, length) if lies else (length, 1)
        data = raw_images.pnm('5', np.arange(length, dtype=np.int64).reshape(shape) % 251, '255')
        try:
            assert photo.read(data, photo.Rule(128, fit, interpolation, channels=1)).shape == (128, 128, 1)
        except Unreadable as refused:
            assert length > 3000 and not lies and fit == 'squash' and 'GB to read' in str(refused)


def test_a_nearest_pixel_of_a_long_strip_is_in_its_middle():
    strip = (np.arange(10**7) // 10**6).astype(np.uint8)[None, :, None]
    assert set(photo.fit(strip, photo.Rule(2, 'short', 'nearest', channels=1)).ravel()) <= {4, 5}


# --- archives ---------------------------------------------------------------------------------------------------------


def tar(*parts):
    """A tar file of (name, type, bytes)."""
    out = b''
    for name, kind, data in parts:
        info = tarfile.TarInfo(name)
        info.type, info.size = kind, len(data)
        out += info.tobuf() + data + bytes(-len(data) % 512)
    return out + bytes(1024)


def everything(path):
    return {str(name): read() for name, read in archive.members(path)}


@pytest.mark.parametrize(
    'header',
    [
        b'9' * 60_000, b'9' * 1_000_000, b'12 comment=x\n' + b'1' * 60_000, b'60008 a=' + b'1' * 59_999 + b'\n',
        b'11 GNU.sparse.map=' + b'1,' * 30_000, b'3000000 path=x\n', b'0 path=x\n', b'-5 path=x\n', b'11 path=abc',
        b'10 size=-1\n', b'40 size=99999999999999999999999999999999\n',
    ],
)  # fmt: skip
@pytest.mark.parametrize('kind', [tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE])
def test_invalid_tar_attributes_are_refused(header, kind, tmp_path):
    path = tmp_path / 'x.tar'
    path.write_bytes(tar(('pax', kind, header), ('a.jpg', tarfile.REGTYPE, b'abc')))
    if header.endswith(b'1' * 59_999 + b'\n'):
        assert everything(path) == {'a.jpg': b'abc'}  # attributes, if strange ones
    else:
        with pytest.raises(UserError, match='damaged|refused'):
            everything(path)


def test_headers_of_a_tar_without_an_end(tmp_path):
    path = tmp_path / 'x.tar'
    for kind in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.DIRTYPE):
        path.write_bytes(tar(('a', kind, b''))[:512] * 20_000)
        with pytest.raises(UserError, match='16,384 headers in a row'):
            everything(path)
    path.write_bytes(tar(('a', tarfile.GNUTYPE_SPARSE, b'')))
    with pytest.raises(UserError, match='stored with holes'):
        everything(path)


@pytest.mark.parametrize('form', [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize('mode', ['w', 'w:gz', 'w:bz2', 'w:xz'])
def test_tar_files_are_read_as_the_standard_library_reads_them(form, mode, tmp_path):
    random = np.random.default_rng(form)
    path = tmp_path / 'x.tar'
    with tarfile.open(path, mode, format=form, encoding='utf-8', errors='surrogateescape') as made:
        for k in range(40):
            info = tarfile.TarInfo(f'dir{k}')
            info.type = tarfile.DIRTYPE
            made.addfile(info)
            name = f'{"x" * int(random.integers(90))}{"/y" * int(random.integers(40))}/{k}.jpg'
            if form != tarfile.USTAR_FORMAT:
                name = 'L' * int(random.integers(200)) + name + ('\udce4' if k % 7 == 0 else 'ä')
            info = tarfile.TarInfo(name)
            info.size = int(random.choice([0, 1, 511, 512, 513, 3000, 70_000]))
            info.mtime, info.uname = (1.5 if form == tarfile.PAX_FORMAT else 1), 'ü'
            made.addfile(info, io.BytesIO(random.bytes(info.size)))
    with tarfile.open(path) as opened:
        expected = {one.name.lstrip('/'): opened.extractfile(one).read() for one in opened if one.isfile()}
    found = {str(name): read() for name, read in archive.members(path)}
    assert found == expected and list(found) == list(expected)
    # Members may be passed over, and one that is kept works later.
    assert [str(name) for name, _ in archive.members(path)] == list(expected)
    some = {str(name): read() for k, (name, read) in enumerate(archive.members(path)) if k % 3 == 0}
    assert some == dict(list(expected.items())[::3])
    data = path.read_bytes()
    for share in (0.1, 0.4, 0.7, 0.9):
        path.write_bytes(data[: int(len(data) * share) // 512 * 512 + 100])
        with pytest.raises(UserError, match='damaged or not whole'):
            everything(path)


def test_a_tar_packed_in_several_streams(tmp_path):
    import gzip

    path, data = tmp_path / 'x.tgz', np.random.default_rng(0).bytes(300_000)
    whole = tar(('a', tarfile.REGTYPE, data), ('b', tarfile.REGTYPE, data[::-1]))
    path.write_bytes(b''.join(gzip.compress(whole[k : k + 99_999]) for k in range(0, len(whole), 99_999)))
    assert everything(path) == {'a': data, 'b': data[::-1]}


def test_archives_that_unpack_to_many_times_their_size(tmp_path):
    zeros = zlib.compressobj(9, wbits=31)
    info = tarfile.TarInfo('x')
    info.size = 1 << 30
    packed = zeros.compress(info.tobuf()) + b''.join(zeros.compress(bytes(1 << 20)) for _ in range(400)) + zeros.flush()
    (tmp_path / 'x.tgz').write_bytes(packed)
    with pytest.raises(UserError, match='unpacks to more than 20 times its size'):
        list(archive.members(tmp_path / 'x.tgz'))
    with zipfile.ZipFile(tmp_path / 'x.zip', 'w', zipfile.ZIP_DEFLATED) as made:
        for k in range(3):
            made.writestr(f'{k}', bytes(100 << 20))
    with pytest.raises(UserError, match='unpacks to more than 20 times its size'):
        list(archive.members(tmp_path / 'x.zip'))


def test_a_zip_of_more_members_than_any_set(tmp_path):
    entry = struct.pack('<IHHHHHHIIIHHHHHII', 0x02014B50, 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b'a'
    count = archive.LARGEST_DIRECTORY // len(entry) + 1
    end = struct.pack('<IHHHHIIH', 0x06054B50, 0, 0, 0xFFFF, 0xFFFF, count * len(entry), 0, 0)
    (tmp_path / 'x.zip').write_bytes(entry * count + end)
    with pytest.raises(UserError, match='damaged'):
        list(archive.members(tmp_path / 'x.zip'))


def test_a_zip_packed_by_what_may_take_any_memory(tmp_path):
    with zipfile.ZipFile(tmp_path / 'x.zip', 'w', zipfile.ZIP_LZMA) as made:
        made.writestr('a', b'abc')
    with pytest.raises(UserError, match='rare way'):
        everything(tmp_path / 'x.zip')


def test_unterminated_varint_is_refused():
    with pytest.raises(ValueError, match='not a protobuf message'):
        example(b'\x0a' + b'\xff' * 1_000_000, ('image',))


# --- what is no file --------------------------------------------------------------------------------------------------


@pytest.fixture(params=['fifo', 'zero', 'random', 'full', 'socket', 'folder', 'loop', 'dangling'])
def special(request, tmp_path):
    import socket

    def make(name):
        path = tmp_path / name
        if request.param == 'fifo':
            os.mkfifo(path)
        elif request.param in ('zero', 'random', 'full'):
            path.symlink_to(f'/dev/{request.param}')
        elif request.param == 'socket':
            with socket.socket(socket.AF_UNIX) as one:
                one.bind(str(path))
        elif request.param == 'folder':
            path.mkdir()
        else:
            path.symlink_to(path if request.param == 'loop' else tmp_path / 'nowhere')
        return path

    return make


def test_only_regular_files_are_opened(special, tmp_path):
    for name in ('x.tar', 'x.zip'):
        path = special(name)
        if not path.is_dir():
            with pytest.raises(UserError):
                list(archive.members(path))
    with pytest.raises(UserError):
        archive.read_list(special('list.txt'))
    with pytest.raises(OSError):
        photo.file_bytes(special('x.jpg'))
    inside = tmp_path / 'unpacked'
    inside.mkdir()
    (inside / 'a.jpg').write_bytes(b'abc')
    os.rename(special('y.jpg'), inside / 'y.jpg')
    assert everything(inside) == {'a.jpg': b'abc'}


def test_an_image_file_of_any_size_is_not_read_whole(tmp_path):
    path = tmp_path / 'x.jpg'
    with path.open('wb') as file:
        file.truncate(1 << 40)
    with pytest.raises(Unreadable, match='larger than'):
        photo.file_bytes(path)


def test_limits_are_above_what_programs_write():
    assert image_header.MOST_SCANS >= 64 and image_header.MOST_PARTS >= 1 << 16
