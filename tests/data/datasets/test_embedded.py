"""The shipped letters, the digits, and the rule that takes look-alikes out."""

from __future__ import annotations

from importlib import resources

import numpy as np
import pytest

from mixjax.data.datasets import embedded, render_glyphs
from mixjax.errors import UserError


@pytest.fixture(scope='module')
def shipped() -> dict[str, np.ndarray]:
    with resources.files('mixjax.data.datasets').joinpath('glyphs.npz').open('rb') as file, np.load(file) as arrays:
        return dict(arrays)


@pytest.fixture(scope='module')
def drawn() -> render_glyphs.Drawing:
    pytest.importorskip('matplotlib')
    return render_glyphs.draw()


def stroke(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    """A 16x16 image with these boxes (top, bottom, left, right) inked."""
    image = np.zeros((16, 16), np.uint8)
    for top, bottom, left, right in boxes:
        image[top:bottom, left:right] = 255
    return image


def test_glyphs_are_sorted_and_complete():
    image, label, classes = embedded.glyphs()
    assert image.dtype == np.uint8 and image.shape == (len(label), 16, 16, 1)
    assert label.dtype == np.int32 and (np.diff(label) >= 0).all()
    assert 150 <= len(classes) <= 190
    assert np.bincount(label, minlength=len(classes)).min() >= 8
    assert (image.reshape(len(image), -1).max(1) > 128).all()


def test_names_are_unique_readable_and_no_digit_is_among_them():
    classes = embedded.glyphs()[2]
    assert len(set(classes)) == len(classes)
    assert all(name.isascii() and name.replace('_', '').isalpha() for name in classes)
    assert {'a', 'R', 'alpha', 'Gamma', 'ze', 'xi', 'zhe'} <= set(classes)
    assert all(char.isalpha() and not char.isnumeric() for _, char in render_glyphs.letters())


def test_latin_names_the_class_that_three_alphabets_share():
    classes = embedded.glyphs()[2]
    for name, absorbed in {'A': ('Alpha', 'A_cyrillic'), 'o': ('O', 'omicron', 'o_cyrillic'), 'c': ('C', 'es')}.items():
        assert name in classes
        assert not set(absorbed) & set(classes)
    assert {'E', 'F', 'G', 'c', 'e', 'Theta', 'n', 'h', 'P', 'R'} <= set(classes), 'one stroke makes another letter'


def test_no_two_shipped_classes_are_look_alikes(shipped):
    similar = render_glyphs.similarity(shipped['image'], shipped['label'], shipped['font'])
    np.fill_diagonal(similar, 0)
    assert similar.max() <= render_glyphs.THRESHOLD


def test_similarity_tolerates_one_pixel_but_not_a_stroke():
    bar = stroke((0, 16, 2, 4))
    moved = stroke((0, 16, 3, 5))
    crossed = stroke((0, 16, 2, 4), (7, 9, 4, 12))
    image = np.stack([bar, moved, crossed])
    similar = render_glyphs.similarity(image, np.arange(3), np.zeros(3, int))
    np.testing.assert_allclose(similar, similar.T)
    np.testing.assert_allclose(np.diag(similar), 1)
    assert similar[0, 1] == 1
    assert similar[0, 2] == 0, 'the cross-stroke is nowhere in the bar'


def test_similarity_is_the_mean_over_shared_fonts_only():
    bar, crossed = stroke((0, 16, 2, 4)), stroke((0, 16, 2, 4), (7, 9, 4, 12))
    # Classes 0 and 1 share fonts 0 and 1: the same there in the one, different in the other.
    image = np.stack([bar, bar, bar, bar, crossed, crossed])
    label, font = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 1, 2, 0, 1, 3])
    similar = render_glyphs.similarity(image, label, font)
    assert similar[0, 1] == pytest.approx(0.5)
    assert similar[0, 2] == similar[1, 2] == 0, 'no shared font, no evidence'


def test_group_joins_chains_under_the_first_name():
    similar = np.eye(6)
    for a, b in [(1, 4), (4, 2), (3, 5)]:
        similar[a, b] = similar[b, a] = 0.9
    similar[0, 1] = similar[1, 0] = 0.5
    assert render_glyphs.group(similar, 0.8).tolist() == [0, 1, 1, 3, 1, 3]
    assert render_glyphs.group(similar, 0.4).tolist() == [0, 0, 0, 3, 0, 3]
    assert render_glyphs.group(similar, 0.95).tolist() == list(range(6))


def test_fit_fills_the_longer_side_and_keeps_proportions():
    page = np.zeros((300, 200), np.uint8)
    page[40:140, 60:110] = 255  # 100 x 50
    image = render_glyphs.fit(page)
    assert image.shape == (16, 16) and image.dtype == np.uint8
    np.testing.assert_array_equal(image, stroke((0, 16, 4, 12)))
    np.testing.assert_array_equal(image, render_glyphs.fit(np.roll(page, (30, -20), (0, 1))))


def test_fit_refuses_an_empty_page():
    with pytest.raises(ValueError, match='no ink'):
        render_glyphs.fit(np.zeros((4, 4)))


@pytest.mark.slow
def test_drawing_again_gives_the_shipped_classes(shipped, drawn):
    first = render_glyphs.group(render_glyphs.similarity(drawn.image, drawn.label, drawn.font))
    again = render_glyphs.keep(drawn, np.unique(first))
    assert again.classes == shipped['classes'].tolist()
    np.testing.assert_array_equal(again.label, shipped['label'])
    np.testing.assert_array_equal(again.font, shipped['font'])
    # Another FreeType moves an edge by a shade, not a letter.
    assert np.abs(again.image.astype(int) - shipped['image']).mean() < 4


def test_npz_has_no_timestamps(tmp_path, shipped):
    drawing = render_glyphs.Drawing(
        shipped['image'][:40], shipped['label'][:40], shipped['font'][:40],
        shipped['classes'].tolist(), shipped['fonts'].tolist(),
    )  # fmt: skip
    render_glyphs.write(drawing, tmp_path / 'a.npz')
    render_glyphs.write(drawing, tmp_path / 'b.npz')
    assert (tmp_path / 'a.npz').read_bytes() == (tmp_path / 'b.npz').read_bytes()
    with np.load(tmp_path / 'a.npz') as arrays:
        np.testing.assert_array_equal(arrays['image'], drawing.image)
        assert arrays['classes'].tolist() == drawing.classes


@pytest.mark.slow
def test_commands(tmp_path, capsys, monkeypatch, drawn):
    monkeypatch.setattr(render_glyphs, 'draw', lambda: drawn)
    assert render_glyphs.main(['--duplicates']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith('A Alpha(') and 'A_cyrillic(' in line for line in lines)
    assert render_glyphs.main(['--out', str(tmp_path / 'g.npz')]) == 0
    with np.load(tmp_path / 'g.npz') as arrays:
        assert len(arrays['classes']) == len(embedded.glyphs()[2])


def test_without_matplotlib_the_command_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'matplotlib', None)
    with pytest.raises(UserError, match=r'mixjax\[report\]'):
        render_glyphs.draw()
    assert render_glyphs.main([]) == 2
    assert 'mixjax[report]' in capsys.readouterr().err


def test_digits_are_all_there():
    image, label, classes = embedded.digits()
    assert image.shape == (1797, 16, 16, 1) and image.dtype == np.uint8
    assert label.dtype == np.int32 and classes == tuple('0123456789')
    assert np.bincount(label).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert image.max() == 255 and image.min() == 0


def test_digits_are_the_8x8_images_enlarged():
    datasets = pytest.importorskip('sklearn.datasets')
    small = datasets.load_digits().images * 255 / 16
    image = embedded.digits()[0][..., 0]
    # A 2x2 block of bilinear samples around a pixel centre averages to a known blur of the original.
    blocks = image.reshape(-1, 8, 2, 8, 2).mean((2, 4))
    padded = np.pad(small, ((0, 0), (1, 1), (1, 1)), mode='edge')
    rows = (padded[:, :-2] + 6 * padded[:, 1:-1] + padded[:, 2:]) / 8
    expected = (rows[:, :, :-2] + 6 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 8
    np.testing.assert_allclose(blocks, expected, atol=0.51)


def test_enlarge_keeps_constants_and_ramps():
    assert (embedded.enlarge(np.full((1, 8, 8), 7.0), 16) == 7).all()
    ramp = np.broadcast_to(np.arange(4.0), (1, 4, 4))
    np.testing.assert_allclose(embedded.enlarge(ramp, 8)[0, 0], [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
