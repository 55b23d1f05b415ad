"""Eight virtual CPU devices for every test, set before jax starts; and no trace in the user's cache."""

import contextlib
import gc
import os

import pytest

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ['XLA_FLAGS'] = (
    os.environ.get('XLA_FLAGS', '').replace('--xla_force_host_platform_device_count=8', '').strip()
    + ' --xla_force_host_platform_device_count=8'
).strip()

pytest.register_assert_rewrite('tests.support')

import jax  # noqa: E402 (after the devices are chosen)
from jax.experimental.compilation_cache import compilation_cache  # noqa: E402

from tests.support import object_store  # noqa: E402


@pytest.fixture(scope='session', autouse=True)
def cache_of_fixtures(tmp_path_factory):
    """Of what is made once for several tests, before any of them begins."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MIXJAX_CACHE', str(tmp_path_factory.mktemp('cache')))
        yield


@pytest.fixture(scope='session', autouse=True)
def programs(tmp_path_factory):
    """jax's own cache of compiled programs: most of the time of the tests is compiling, and many compile the same ones.

    Shared by the workers and the commands that `tests.support.common.call` runs. Other processes that a test starts
    keep their programs as users' do, in MIXJAX_CACHE, which is another folder for every test.
    """
    here = tmp_path_factory.getbasetemp()
    folder = (here.parent if 'PYTEST_XDIST_WORKER' in os.environ else here) / 'programs'
    jax.config.update('jax_compilation_cache_dir', str(folder))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)
    compilation_cache.reset_cache()  # what was compiled while the tests were collected has settled that there is none


# Linux allows a process 65,530 mappings, and a compiled program takes several. Where they run out, the compiler aborts.
MOST_MAPPINGS = 15_000


@pytest.fixture(scope='module', autouse=True)
def few_programs():
    """Let go of compiled programs between two modules, before there are too many; those on disk are found again."""
    yield
    with contextlib.suppress(OSError), open('/proc/self/maps') as mappings:
        if sum(1 for _ in mappings) > MOST_MAPPINGS:
            jax.clear_caches()
            gc.collect()


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv('MIXJAX_CACHE', str(tmp_path_factory.mktemp('cache')))


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    """Tests need no network: what is not in the cache of the Hugging Face hub is missing."""
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')


@pytest.fixture(scope='session')
def store():
    """An object store, `gs://bucket`; this process and those that it starts are its clients."""
    with object_store.running() as running, pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment.items():
            patch.setenv(name, value)
        yield running


@pytest.fixture(scope='session')
def digits_run(tmp_path_factory):
    """The work directory of a run on a folder of digits, `photos` beside it; whoever changes it takes a copy."""
    from tests.support import digit_run  # it imports the trainer

    return digit_run.train_on_digits(tmp_path_factory.mktemp('digits'))
