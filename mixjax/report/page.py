"""The frame of a page: its head, title and style; nothing in it can be fetched or run."""

from __future__ import annotations

from mixjax.report.words import escape

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def document(title: str, subtitle: str, body: str, sheet: str) -> str:
    """Return a whole page.

    Args:
      title: its heading.
      subtitle: a line below it; '' for none.
      body: HTML.
      sheet: CSS.
    """
    top = f'<p class="sub">{escape(subtitle)}</p>' if subtitle else ''
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<title>{escape(title)}</title>\n<style>\n{sheet}</style>\n</head>\n<body>\n'
        f'<header><h1>{escape(title)}</h1>{top}</header>\n<main>\n{body}\n</main>\n</body>\n</html>\n'
    )
