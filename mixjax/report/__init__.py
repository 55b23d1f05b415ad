"""The report on a run: tables, curves and pictures in one HTML file.

It reads only the files of a work directory; training never imports this package, and the command
prints the tables of `mixjax.report.tables`. Needs numpy and the standard library.
"""

from mixjax.report.html import render, write

__all__ = ['render', 'write']
