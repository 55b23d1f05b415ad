"""Eight virtual CPU devices for every test, set before jax starts; and no trace in the user's cache."""

import os

import pytest

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ['XLA_FLAGS'] = (
    os.environ.get('XLA_FLAGS', '').replace('--xla_force_host_platform_device_count=8', '').strip()
    + ' --xla_force_host_platform_device_count=8'
).strip()

pytest.register_assert_rewrite('tests.support')

from tests.support import object_store  # noqa: E402 (after the devices are chosen)


@pytest.fixture(scope='session', autouse=True)
def cache_of_fixtures(tmp_path_factory):
    """Of what is made once for several tests, before any of them begins."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MIXJAX_CACHE', str(tmp_path_factory.mktemp('cache')))
        yield


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv('MIXJAX_CACHE', str(tmp_path_factory.mktemp('cache')))


@pytest.fixture(scope='session')
def store():
    """An object store, `gs://bucket`; this process and those that it starts are its clients."""
    with object_store.running() as running, pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment.items():
            patch.setenv(name, value)
        yield running
