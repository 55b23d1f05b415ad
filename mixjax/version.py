"""The version of mixjax."""

__version__ = '0.1.0'
