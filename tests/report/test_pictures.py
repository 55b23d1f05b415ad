"""Which pictures are shown, how large, and what is said of them."""

import numpy as np
import pytest

from mixjax.report import pictures
from mixjax.report.read import Samples, read
from tests.support import fake

IMAGE, OTHER = fake.pictures(0, (4,), 16, 1), fake.pictures(50, (4,), 16, 1)


def rows(seen, other=OTHER):
    return [('target image', IMAGE), ('its partner', other), ('seen', seen)]


@pytest.mark.parametrize('weights', [(0.5, 0.5, 0.5, 0.5), (0.9, 0.1, 1.0, 0.0)])
def test_shares_of_a_blend(weights):
    w = np.reshape(weights, (4, 1, 1, 1))
    seen = np.rint(w * IMAGE + (1 - w) * OTHER).astype(np.uint8)
    assert pictures.shares(rows(seen)) == pytest.approx(weights, abs=0.01)


def test_no_share_where_the_two_are_alike():
    other = OTHER.copy()
    other[1] = IMAGE[1]
    seen = np.rint(0.5 * IMAGE + 0.5 * other).astype(np.uint8)
    found = pictures.shares(rows(seen, other))
    assert found[1] is None and found[0] == pytest.approx(0.5, abs=0.01)


def test_no_shares_where_a_box_was_pasted():
    seen = IMAGE.copy()
    seen[:, 4:12, 4:12] = OTHER[:, 4:12, 4:12]
    assert pictures.shares(rows(seen)) == []
    assert pictures.shares(rows(seen)[2:]) == []


def test_sample_rows():
    label = np.arange(4)
    same = Samples(IMAGE, OTHER, None, IMAGE, label)
    assert [title for title, _ in pictures.sample_rows(same)] == ['seen']
    rounded = same._replace(seen=np.where(IMAGE > 0, IMAGE - 1, IMAGE).astype(np.uint8))
    assert len(pictures.sample_rows(rounded)) == 1
    assert pictures.sample_rows(same._replace(seen=OTHER))[1][1] is OTHER
    drawn = pictures.sample_rows(same._replace(source=OTHER[::-1]))  # shown even where it went in by another way
    assert [title for title, _ in drawn] == ['target image', 'source image', 'seen']


def test_a_label_without_a_name_is_its_number():
    assert pictures._class_name(('a', 'b'), 1) == 'b'
    assert pictures._class_name(('a', 'b'), 5) == '5'


@pytest.mark.parametrize(
    ('side', 'budget', 'expected'),
    [
        (16, 1_800_000, (2, 8, 24, 16)),
        (224, 1_800_000, (2, 4, 12, 110)),
        (224, 300_000, (2, 4, 12, 45)),
        (224, 50_000, (1, 4, 12, 55)),
        (224, 100, (0, 4, 12, 24)),
    ],
)
def test_plan(tmp_path, side, budget, expected):
    # 224: 4 pictures of finetune; of xmixup 12 samples, 10 target classes and 11 source classes; 3 channels each
    methods = {'finetune': 0.8, 'xmixup': 0.9}
    folder = fake.make_comparison(tmp_path / 'run', methods, seeds=1, side=side, channels=3)
    assert pictures.plan(read([folder])[0], budget) == expected


def test_a_picture_is_reduced_and_described():
    large = fake.picture(0, 64, 3)
    text = pictures.picture(large, 'a "b"', 32)
    assert text.startswith('<img width="32" height="32" alt="a &quot;b&quot;" src="data:')
    assert pictures.picture(large[:16, :16], 'x', 32).startswith('<img class="pixels" width="16"')
