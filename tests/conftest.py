"""Eight virtual CPU devices for every test, set before jax starts."""

import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ['XLA_FLAGS'] = (
    os.environ.get('XLA_FLAGS', '').replace('--xla_force_host_platform_device_count=8', '').strip()
    + ' --xla_force_host_platform_device_count=8'
).strip()
