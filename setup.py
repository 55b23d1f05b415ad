"""The part of the packaging that setup.cfg cannot say; everything else is there."""

from setuptools import find_packages, setup

# configs/ is at the top of the repository, where people look for it, and ships as mixjax.configs.
configs = [f'mixjax.{name}' for name in find_packages(include=['configs', 'configs.*'])]

setup(
    packages=find_packages(include=['mixjax', 'mixjax.*']) + configs,
    package_dir={'mixjax.configs': 'configs'},
)
