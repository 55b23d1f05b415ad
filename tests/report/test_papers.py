"""The numbers of the papers: how many there are, where they are from, and that they agree with each other."""

from collections import Counter

import pytest

from mixjax.errors import UserError
from mixjax.report import papers

# Numbers of each table as printed; repeated ones are counted wherever they stand.
NUMBERS = {
    'smile_table2': 108, 'smile_table3': 36, 'smile_table4': 16,
    'xmixup_table1': 42, 'xmixup_table2': 18, 'xmixup_table3': 6, 'xmixup_table4': 9,
    'lamix_table1': 40, 'lamix_table2': 12, 'lamix_table3': 30, 'lamix_table4': 4,
    'lamix_table5': 36, 'lamix_table6': 8, 'lamix_table7': 8, 'lamix_table8': 8,
}  # fmt: skip
# Read off the papers by eye: table, dataset, method, split, network, metric, value, std.
BY_EYE = [
    ('smile_table2', 'cub200', 'smile', 'c25_n400', 'resnet50', 'accuracy', 62.13, 0.55),
    ('smile_table2', 'stanford_cars', 'cotuning', 'c25_n400', 'resnet50', 'accuracy', 66.05, 0.41),
    ('smile_table2', 'fgvc_aircraft', 'smile', 'all_100', 'resnet50', 'accuracy', 90.16, 0.15),
    ('smile_table3', 'mit_indoor67', 'finetune', '30', 'resnet50', 'accuracy', 78.68, 0.20),
    ('smile_table3', 'food101', 'smile', '100', 'efficientnet_b4', 'accuracy', 88.20, 0.10),
    ('smile_table4', 'cub200', 'mixup', '30', 'resnet50', 'label_il_test', 2.00, None),
    ('smile_table4', 'cub200', 'finetune_add', '30', 'resnet50', 'feature_il_train', 1.58, None),
    ('xmixup_table1', 'stanford_dogs', 'xmixup', 'all', 'resnet50', 'accuracy', 91.24, 0.08),
    ('xmixup_table2', 'fgvc_aircraft', 'xmixup', 'all', 'resnet50', 'probe_all_but_auxiliary', 18.93, None),
    ('xmixup_table3', 'stanford_dogs', 'xmixup_random', 'all', 'resnet50', 'accuracy', 85.58, None),
    ('xmixup_table4', 'cub200', 'without_label', 'all', 'resnet50', 'accuracy', 77.89, None),
    ('lamix_table1', 'cifar100', 'lamix', 'all', 'preactresnet18', 'error', 19.38, 0.16),
    ('lamix_table2', 'cifar100', 'cutmix', 'all', 'lenet', 'error', 62.5, 3.09),
    ('lamix_table3', 'cifar10', 'puzzlemix', 'all', 'resnet50', 'error', 2.55, 0.13),
    ('lamix_table4', 'tiny_imagenet', 'lamix', 'all', 'resnet50', 'error', 30.68, 0.24),
    ('lamix_table5', 'tiny_imagenet', 'mixup_uls0.4', 'all', 'resnet50', 'error', 91.82, 0.37),
    ('lamix_table6', 'tiny_imagenet', 'vanilla', 'all', 'preactresnet18', 'error', 42.61, 0.41),
    ('lamix_table7', 'cifar10', 'lamix_without_originals', 'all', 'resnet50', 'error', 6.39, 0.59),
    ('lamix_table8', 'cifar100', 'lamix_without_global', 'all', 'preactresnet18', 'error', 23.03, 0.35),
]


def value(table, method, **of):
    (number,) = [
        n for n in papers.of(table) if n.method == method and all(getattr(n, key) == v for key, v in of.items())
    ]
    return number.value


def test_how_many_numbers_each_table_has():
    assert Counter(number.table for number in papers.numbers()) == NUMBERS
    assert papers.tables() == list(NUMBERS) and sum(NUMBERS.values()) == 381


def test_each_number_is_there_once_and_says_where_it_is_from():
    keys = Counter(number[:6] for number in papers.numbers())
    assert max(keys.values()) == 1
    sources = Counter(number.source for number in papers.numbers())
    assert max(sources.values()) == 1
    for number in papers.numbers():
        paper, _, place = number.table.partition('_table')
        said = number.source.split(' | ')
        assert said[0].lower() == paper and said[1] == f'Table {place}' and len(said) >= 3
        assert all(number[:6]) and number.value > 0 and (number.std is None or 0 < number.std < 4)


@pytest.mark.parametrize('line', BY_EYE, ids=lambda line: '-'.join(line[:3]))
def test_numbers_read_by_eye(line):
    assert line in [(*number[:7], number.std) for number in papers.of(line[0])]


def test_spreads_and_runs_are_there_where_the_paper_prints_them():
    bare = {number.table for number in papers.numbers() if number.std is None and number.dataset != papers.AVERAGE}
    assert bare == {'smile_table4', 'xmixup_table2', 'xmixup_table3', 'xmixup_table4'}
    assert {number.n for number in papers.numbers() if number.table.startswith('lamix')} == {5}
    assert {number.n for number in papers.numbers() if number.table.startswith('smile')} == {None}


def test_numbers_that_are_printed_twice_are_the_same():
    repeated = [n for n in papers.numbers() if n.note.startswith('also in Table') or 'numbers of Table 1' in n.note]
    assert len(repeated) == 3 + 10 + 12 + 4 + 4
    for number in repeated:
        paper = number.table.partition('_')[0]
        other = f'{paper}_table{6 if "Table 6" in number.note else 1}'
        same = {n[1:7]: n.std for n in papers.of(other)}
        assert number[1:7] in same and number.std in (same[number[1:7]], None)


def test_averages_are_those_of_their_columns():
    means = [number for number in papers.of('xmixup_table1') if number.dataset == papers.AVERAGE]
    assert len(means) == 6
    for mean in means:
        values = [n.value for n in papers.of('xmixup_table1') if n.method == mean.method and n.dataset != 'average']
        assert len(values) == 6 and abs(sum(values) / 6 - mean.value) < 0.0051


def test_the_differences_that_the_paper_prints_in_brackets():
    printed = {
        'cub200': -0.25, 'stanford_cars': 0.08, 'flowers102': -0.12,
        'food101': -0.21, 'stanford_dogs': -5.66, 'fgvc_aircraft': -0.29,
    }  # fmt: skip
    found = {
        n.dataset: n.value - value('xmixup_table1', 'xmixup', dataset=n.dataset) for n in papers.of('xmixup_table3')
    }
    assert {dataset: round(gap, 2) for dataset, gap in found.items()} == printed


def test_claims_of_the_texts_that_the_numbers_bear_out_or_do_not():
    gaps = {
        method: sum(
            value('xmixup_table4', 'xmixup', dataset=d) - value('xmixup_table4', method, dataset=d)
            for d in ('cub200', 'fgvc_aircraft', 'stanford_dogs')
        )
        / 3
        for method in ('mixup', 'without_label')
    }
    assert {method: round(gap, 1) for method, gap in gaps.items()} == {'mixup': 2.7, 'without_label': 5.2}
    # "at least 25 % higher": 21 %.
    train, test = (value('smile_table4', 'mixup', metric=f'label_il_{part}') for part in ('train', 'test'))
    assert 1.2 < test / train < 1.25
    # BSS and RIFLE on 30 % of Food.
    assert value('smile_table3', 'bss', dataset='food101', split='30') == 81.13
    assert value('smile_table3', 'rifle', dataset='food101', split='30') == 81.13
    # "label smoothing degraded the accuracy of vanilla Mixup" in all cases: not here.
    c100 = {'dataset': 'cifar100', 'network': 'preactresnet18'}
    assert value('lamix_table5', 'mixup_uls0.3', **c100) < value('lamix_table5', 'mixup', **c100)


def test_an_unknown_table():
    with pytest.raises(UserError, match=r"unknown table 'smile_table1'; did you mean 'smile_table"):
        papers.of('smile_table1')
