"""`config.target.test`: nothing is tested on, or what is not labelled although there is a test part."""

import pytest

import mixjax
from mixjax import inference, report
from mixjax.errors import UserError
from mixjax.report import read
from tests.support import photos, toy
from tests.support.toy import settings, train

tiny = toy.tiny


def digits(**target):
    config = settings('finetune', steps=4, eval_every=2, checkpoint_every=2)
    with config.unlocked():
        config.synthetic.per_class, config.synthetic.side, config.source.name = 0, 0, ''
        config.target.update({'name': 'digits', **target})
        config.model.weights = 'random://5'
    return config


def test_all_images_are_learned_from_and_nothing_is_tested(tmp_path):
    results = train(digits(per_class=3, test='none'), tmp_path / 'run')
    assert results['test_examples'] == 0 and results['train_examples'] == 30
    assert results['accuracy'] == {'mean': None, 'std': None, 'n': 1}
    (folder,) = read.read([tmp_path / 'run'])
    page = report.write(tmp_path / 'run').read_text()
    assert 'Trained on all 30 images; nothing was left to test on.' in page and folder.runs[0].predictions is None
    assert len(mixjax.load(tmp_path / 'run').classes) == 10
    with pytest.raises(UserError, match='tested on nothing'):
        inference.test_set(tmp_path / 'run')
    again = train(digits(per_class=3, test='none'), tmp_path / 'run')  # it is finished
    assert again == results


def test_what_is_not_labelled_is_tested_on_although_there_is_a_test_part(tmp_path):
    names = [f'{part}/{k}/{n}.png' for part, many in (('train', 5), ('test', 3)) for k in 'ab' for n in range(many)]
    photos.put(tmp_path / 'photos', *names)
    found = {}
    for test in ('', 'rest'):
        config = digits(name='folder', dir=str(tmp_path / 'photos'), per_class=3, test=test)
        with config.unlocked():
            config.image.mean = config.image.std = (0.5, 0.5, 0.5)
        found[test] = train(config, tmp_path / f'run{test}')['test_examples']
    assert found == {'': 6, 'rest': 4}  # three of each class in the test part, and two that are left of five


def test_a_run_that_tests_nothing_cannot_keep_the_best(tmp_path):
    config = digits(per_class=3, test='none', val=0.4)
    with config.unlocked():
        config.keep = 'best'
    with pytest.raises(UserError, match='last network is kept'):
        train(config, tmp_path / 'run')


def test_without_it_a_run_without_a_test_set_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(UserError, match='target.test=none'):
        train(digits(rate=1.0, test='rest'), tmp_path / 'run')
