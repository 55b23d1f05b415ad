import numpy as np

from mixjax.host import array_cache, storage
from mixjax.models import net as net_lib
from mixjax.train import program, seeds, shared
from tests.support.toy import settings, tiny  # noqa: F401


def counted(value):
    calls = []

    def make():
        calls.append(1)
        return np.asarray(value)

    return make, calls


def test_cached_arrays_are_reused(tmp_path):
    make, calls = counted([[1.0, 2.0]])
    for _ in range(2):
        kept = array_cache.Cache(tmp_path / 'c', {'weights': 'a'})
        np.testing.assert_array_equal(kept.get('means', make), [[1, 2]])
        kept.get('means', make)
    assert len(calls) == 1
    assert [path.suffix for path in (tmp_path / 'c').iterdir()] == ['.npz']


def test_another_key_or_name_is_another_file(tmp_path):
    make, calls = counted(1.0)
    for key, name in (({'weights': 'a'}, 'x'), ({'weights': 'b'}, 'x'), ({'weights': 'a'}, 'y')):
        array_cache.Cache(tmp_path, key).get(name, make)
    assert len(calls) == 3 and len(list(tmp_path.iterdir())) == 3


def test_a_damaged_file_is_made_again(tmp_path):
    make, calls = counted(3.0)
    kept = array_cache.Cache(tmp_path, {'k': 1})
    kept.get('x', make)
    for damage in (b'', b'PK nonsense', kept.path('x').read_bytes()[:-40]):
        kept.path('x').write_bytes(damage)
        assert array_cache.Cache(tmp_path, {'k': 1}).get('x', make) == 3
    assert len(calls) == 4


def test_unwritable_cache_folder_is_tolerated(tmp_path):
    (tmp_path / 'file').write_text('')
    make, calls = counted(3.0)
    for _ in range(2):
        assert array_cache.Cache(tmp_path / 'file' / 'c', {'k': 1}).get('x', make) == 3
    assert len(calls) == 2


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv('MIXJAX_CACHE', str(tmp_path))
    assert storage.cache_folder('') == tmp_path and str(storage.cache_folder('here')) == 'here'
    monkeypatch.delenv('MIXJAX_CACHE')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'x'))
    assert storage.cache_folder('') == tmp_path / 'x' / 'mixjax'


def test_digest_sees_values_types_and_places():
    one = array_cache.digest({'a': np.zeros(2), 'b': np.ones(3, np.float32)})
    assert one == array_cache.digest({'b': np.ones(3, np.float32), 'a': np.zeros(2)})
    assert one != array_cache.digest({'a': np.zeros(2), 'b': np.ones(3)})
    assert one != array_cache.digest({'c': np.zeros(2), 'b': np.ones(3, np.float32)})


def test_source_means_are_of_the_network_the_weights_and_the_data(tmp_path, monkeypatch):
    """They are computed once for all runs that share these, and again for other weights or images."""
    passes = []
    monkeypatch.setattr(
        shared, 'view', lambda net, start: (net_lib.bind(net, start), lambda x: passes.append(1) or x.mean((1, 2)))
    )

    def means(**changes):
        config = settings('xmixup', cache_dir=str(tmp_path))
        config.synthetic.per_class = config.synthetic.side = 0
        config.target.name = 'digits'
        for key, value in changes.items():
            node = config
            *parents, last = key.split('.')
            for part in parents:
                node = node[part]
            node[last] = value
        before = len(passes)
        seeds.method_data(program.build(config), 0)[0].source.class_means(2)
        return len(passes) - before

    assert means() > 0
    assert means() == 0 and means(seed=3) == 0 and means(steps=7) == 0
    assert means(**{'model.weights': 'random://161', 'source.name': 'glyphs'}) > 0
    assert means(**{'image.mean': (0.4,)}) > 0
