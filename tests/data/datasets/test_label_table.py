"""Labels of a folder's images in a CSV file: what it may hold, and what is refused in one sentence."""

import os
import time

import numpy as np
import pytest

from mixjax import config as config_lib
from mixjax.data.datasets import folder, label_table
from mixjax.errors import UserError
from tests.support.photos import put


def table(tmp_path, text, task=''):
    (tmp_path / 'labels.csv').write_bytes(text if isinstance(text, bytes) else text.encode())
    return label_table.read(tmp_path, 'labels.csv', task)


def test_classes_are_sorted(tmp_path):
    found = table(tmp_path, 'file,label\nb.jpg,dog\nsub/a.jpg, cat \n\n')
    assert found.names == ('cat', 'dog') and found.of == {'b.jpg': 1, 'sub/a.jpg': 0}
    assert found.array([1, 0]).tolist() == [1, 0] and found.array([1]).dtype == np.int32


@pytest.mark.parametrize(
    'text',
    [
        'file,labels\na.jpg,sky;sea\nb.jpg,\nc.jpg,sea|sea\n',
        'file,sea,sky\na.jpg,1,1\nb.jpg,0,0\nc.jpg,1,0\n',
        'file,sky,sea\na.jpg,1,1\nb.jpg,0,0\nc.jpg,0,1\n',
    ],
)
def test_several_labels_in_a_cell_or_in_columns(text, tmp_path):
    found = table(tmp_path, text, 'multi_label')
    assert found.names == ('sea', 'sky') and found.of == {'a.jpg': (0, 1), 'b.jpg': (), 'c.jpg': (0,)}
    assert found.array(list(found.of.values())).tolist() == [[1, 1], [0, 0], [1, 0]]


def test_numbers_keep_the_order_of_their_columns(tmp_path):
    found = table(tmp_path, 'file,weight,age\na.jpg,70.5,3e1\nb.jpg, -1,.5\n', 'regression')
    assert found.names == ('weight', 'age') and found.of == {'a.jpg': (70.5, 30.0), 'b.jpg': (-1.0, 0.5)}
    assert found.array([(70.5, 30.0)]).dtype == np.float64


def test_what_spreadsheets_write_is_read(tmp_path):
    text = '\ufeffFile,"price, net"\r\n"a, b.jpg",1\r\n.\\sub\\c.jpg,2\r\n'
    found = table(tmp_path, text, 'regression')
    assert found.names == ('price, net',) and list(found.of) == ['a, b.jpg', 'sub/c.jpg']
    assert list(table(tmp_path, 'file,label\nu\u0308.jpg,a\n').of) == ['\u00fc.jpg']  # composed, as the ids are


REFUSED = {
    'nothing': ('', '', 'its first line must name the columns, file first and a comma between them, as in file,label'),
    'no head': ('', 'a.jpg,cat\n', "as in file,label, not 'a.jpg,cat'"),
    'semicolons': ('regression', 'file;age\na.jpg;3\n', 'file first and a comma between them, as in file,age'),
    'no line': ('', 'file,label\n', 'no line but the first'),
    'two columns of one class': ('', 'file,label,more\na,b,c\n', 'the columns are file,label, not file,label,more'),
    'another column': ('', 'file,class\na,b\n', 'the columns are file,label, not file,class'),
    'a column twice': ('regression', 'file,a,a\nx,1,2\n', "each column needs a name of its own, and one is 'a'"),
    'a column without a name': ('regression', 'file,a,\nx,1,2\n', 'each column needs a name of its own'),
    'too few cells': ('', 'file,label\na.jpg\n', 'line 2: it has 1 cells, and the first line 2'),
    'a comma': ('', 'file,label\na.jpg,b,c\n', 'line 2: .* a cell with a comma in it must be in double quotes'),
    'no file': ('', 'file,label\n ,b\n', 'line 2: it names no file'),
    'no label': ('', 'file,label\na.jpg, \n', "line 2: 'a.jpg' has no label"),
    'twice': ('', 'file,label\na.jpg,b\nc.jpg,d\n./a.jpg,b\n', "line 4: 'a.jpg' is there before, in line 2"),
    'a word': ('regression', 'file,age\na,old\n', "line 2: 'age' must be a number .* not 'old'"),
    'a decimal comma': ('regression', 'file,age\na,"3,5"\n', "with a decimal point, not '3,5'"),
    'nan': ('regression', 'file,age\na,nan\n', "must be a number .* not 'nan'"),
    'infinite': ('regression', 'file,age\na,1e999\n', "must be a number .* not '1e999'"),
    'underscores': ('regression', 'file,age\na,1_0\n', "must be a number .* not '1_0'"),
    'an empty number': ('regression', 'file,age\na,\n', "must be a number .* not ''"),
    'a mark': ('multi_label', 'file,a,b\nx,1,2\n', "line 2: 'b' must be 1 or 0, not '2'"),
    'no labels at all': ('multi_label', 'file,labels\nx,\n', 'no image has a label'),
    'NUL': ('', b'file,label\na\0,b\n', 'line 2: it has a NUL character in it'),
    'latin 1': ('', 'file,label\n\u00fc,b\n'.encode('latin1'), 'line 2: it is not text in UTF-8'),
    'utf 16': ('', 'file,label\na,b\n'.encode('utf-16'), 'line 1: it is not text in UTF-8'),
    'an open quote': ('', 'file,label\n"a,b\n', 'it is not CSV'),
    'a huge cell': ('', f'file,label\n{"a" * 2_000_000},b\n', 'line 2: it is not CSV .*limit'),
    'a name that moves the cursor': ('', 'file,label\na,\x1b[2J\n', 'short text of printable characters'),
}


@pytest.mark.parametrize('what', REFUSED)
def test_what_is_wrong_is_said_in_one_sentence(what, tmp_path):
    task, text, said = REFUSED[what]
    with pytest.raises(UserError, match=said) as found:
        table(tmp_path, text, task)
    assert '\n' not in str(found.value) and len(str(found.value)) < 400


def test_places_that_are_no_files_are_refused(tmp_path):
    os.mkfifo(tmp_path / 'fifo.csv')
    (tmp_path / 'folder.csv').mkdir()
    with (tmp_path / 'huge.csv').open('wb') as file:
        file.truncate(1 << 40)
    for name, said in {
        'fifo.csv': 'a FIFO and not a regular file', 'folder.csv': 'Is a directory', 'huge.csv': 'larger than',
        'none.csv': 'there is no file', '../labels.csv': 'is the name of a file in', '/etc/passwd': 'is the name of',
    }.items():  # fmt: skip
        with pytest.raises(UserError, match=said):
            label_table.read(tmp_path, name, '')


def test_many_lines_take_little_time(tmp_path):
    lines = ''.join(f'deep/{k}.jpg,{k % 1000 / 7:.3f},{k}\n' for k in range(100_000))
    began = time.monotonic()
    assert len(table(tmp_path, f'file,a,b\n{lines}', 'regression').of) == 100_000
    assert time.monotonic() - began < 20  # it takes about one second


# --- the folder -------------------------------------------------------------------------------------------------------


def look(root, tmp_path, task='', holdout=0.25):
    return folder.scan(str(root), holdout=holdout, cache=tmp_path / 'cache', labels='labels.csv', task=task)


def test_images_that_the_file_names_are_found_and_held_out(tmp_path):
    root = tmp_path / 'photos'
    put(root, *[f'{k}.png' for k in range(6)], 'deep/6.png', 'deep/7.png', 'not named.png')
    names = [*[f'{k}.png' for k in range(6)], 'deep/6.png', 'deep/7.png']
    (root / 'labels.csv').write_text('file,age\n' + ''.join(f'{name},{k}\n' for k, name in enumerate(names)))
    found = look(root, tmp_path, 'regression')
    assert (len(found.train), len(found.test), found.classes) == (6, 2, ('age',))
    assert {one.id: one.label for one in (*found.train, *found.test)} == {
        name: (float(k),) for k, name in enumerate(names)
    }
    assert found.labels(found.train).shape == (6, 1)
    assert found.notes[0] == (
        f'{root}: 8 images with 1 number (labels.csv): 6 to learn from, 2 to test on, 0.25 of them, held out'
    )
    assert 'left out, 1 image that labels.csv does not name' in found.notes
    # The choice depends on the bytes only, not on the labels.
    assert [one.id for one in look(root, tmp_path, 'regression').test] == [one.id for one in found.test]


def test_folders_of_parts_are_parts(tmp_path):
    root = tmp_path / 'photos'
    put(root, 'train/a.png', 'train/b.png', 'val/c.png', 'test/d.png')
    (root / 'labels.csv').write_text('file,labels\ntrain/a.png,x\ntrain/b.png,y\nval/c.png,x;y\ntest/d.png,\n')
    found = look(root, tmp_path, 'multi_label')
    assert [[one.id for one in part] for part in (found.train, found.val, found.test)] == [
        ['train/a.png', 'train/b.png'], ['val/c.png'], ['test/d.png'],
    ]  # fmt: skip
    (root / 'labels.csv').write_text('file,labels\ntrain/a.png,x\ntrain/b.png,y\nval/c.png,x;y\n')
    assert [one.id for one in look(root, tmp_path, 'multi_label').test] == ['val/c.png']


def test_one_class_an_image_as_from_class_folders(tmp_path):
    root, other = tmp_path / 'photos', tmp_path / 'classes'
    put(root, *[f'{k}.png' for k in range(8)])
    for k in range(8):
        put(other, f'{"cat" if k % 2 else "dog"}/{k}.png', data=(root / f'{k}.png').read_bytes())
    (root / 'labels.csv').write_text(
        'file,label\n' + ''.join(f'{k}.png,{"cat" if k % 2 else "dog"}\n' for k in range(8))
    )
    found = look(root, tmp_path)
    wanted = folder.scan(str(other), holdout=0.25, cache=tmp_path / 'cache')
    assert found.classes == wanted.classes == ('cat', 'dog')
    for part in ('train', 'test'):
        assert [(one.digest, one.label) for one in getattr(found, part)] == [
            (one.digest, one.label) for one in getattr(wanted, part)
        ]
    assert '2 classes' in found.notes[0]


def test_what_is_missing_is_named(tmp_path):
    root = tmp_path / 'photos'
    put(root, 'a.png', 'b.png')
    (root / 'labels.csv').write_text('file,age\na.png,1\nB.png,2\n../photos/b.png,3\n')
    with pytest.raises(UserError, match=r"labels.csv names 'B.png' and 1 more, and there is no such image in"):
        look(root, tmp_path, 'regression')
    (root / 'labels.csv').write_text('file,age\na.png,1\nbroken.jpg,2\nb.png,3\n')
    (root / 'broken.jpg').write_bytes(b'no picture')
    found = look(root, tmp_path, 'regression', holdout=0.5)
    assert list(found.unreadable) == ['broken.jpg'] and len(found.train) == len(found.test) == 1


# --- settings ---------------------------------------------------------------------------------------------------------

TARGET = {'target.name': 'folder', 'target.labels': 'labels.csv', 'method.name': 'finetune', 'target.per_class': '0'}


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({'target.task': 'multilabel'}, r'config.target.task must be multi_label or regression, or .. for one class'),
        ({'target.task': 'regression', 'target.per_class': '3'}, 'config.target.per_class needs one class for each'),
        ({'target.task': 'multi_label', 'target.counts': '3,4'}, 'config.target.counts needs one class for each'),
        ({'target.task': 'multi_label', 'target.classes': '0.5'}, 'config.target.classes needs one class for each'),
        ({'target.task': 'regression', 'target.balance': 'classes'}, 'config.target.balance needs one class for'),
        ({'target.task': 'regression', 'target.labels': ''}, 'needs a folder of images with a file of labels'),
        ({'target.task': 'regression', 'target.name': 'digits', 'target.dir': '', 'target.labels': ''}, 'needs a fold'),
        ({'target.name': 'digits', 'target.dir': ''}, 'config.target.labels=labels.csv is the file of labels of a'),
        ({'target.task': 'regression', 'model.head': 'keep'}, 'config.model.head=keep: the numbers of'),
        ({'target.task': 'regression', 'analyse': '--what=spectrum'}, 'config.analyse measures runs of one class'),
        (
            {'target.task': 'multi_label', 'method.name': 'xmixup'},
            r'config.method: xmixup is for classification only \(its loss needs one class for each image\), and '
            'config.target.task is multi_label; the methods for multi_label are bitfit, bss, delta, ema, '
            'feature_extraction, finetune, l2sp, lntune, lora, mixup, rifle, sam',
        ),
        ({'target.task': 'regression', 'method.wrappers': 'cutmix'}, r'finetune \+ cutmix is for classif'),
        ({'target.task': 'multi_label', 'method.wrappers': 'puzzlemix'}, r'finetune \+ puzzlemix is for clas'),
        ({'target.task': 'multi_label', 'method.name': 'mixup', 'method.label_smoothing': '0.1'}, 'mixup is for class'),
    ],
)
def test_settings_without_a_meaning_for_the_task_are_refused(changes, said, tmp_path):
    put(tmp_path, 'a.png', 'b.png')
    numbers = changes.get('target.task') == 'regression'
    (tmp_path / 'labels.csv').write_text(f'file,{"age" if numbers else "labels"}\na.png,1\nb.png,2\n')
    given = {**TARGET, 'target.dir': str(tmp_path), **changes}
    with pytest.raises(UserError, match=said):
        config_lib.load('quickstart', list(given.items()))
