"""One short file per experiment; `mixjax/config/defaults.py` holds the defaults.

In an installation this folder is the package `mixjax.configs`, so that `--config=quickstart` works
anywhere.
"""
