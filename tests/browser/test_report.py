"""The report in a real browser: Chromium, headless, as a file from disk."""

import json
import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from mixjax.report import write
from tests.support import fake

pytestmark = pytest.mark.browser

# What is asked of the page, by a script in a copy of it (the page itself allows none).
QUESTIONS = """
<script>
addEventListener('load', () => {
  const root = document.documentElement, wide = root.clientWidth;
  const inside = e => e.closest('.scroll, pre') !== null;
  const sticks = e => !inside(e) && e.getBoundingClientRect().right > wide + 1;
  const out = [...document.querySelectorAll('body *')].filter(sticks);
  const focus = [...document.querySelectorAll('a, summary, .scroll, pre')].filter(e => e.checkVisibility());
  const result = {
    inner: innerWidth, client: wide, scroll: root.scrollWidth,
    out: out.map(e => e.tagName + '.' + (e.className.baseVal ?? e.className)),
    broken: [...document.images].filter(i => !i.complete || i.naturalWidth === 0).length,
    images: document.images.length,
    unreachable: focus.filter(e => (e.focus(), document.activeElement !== e)).length,
    focusable: focus.length,
    ground: getComputedStyle(document.body).backgroundColor,
    ink: getComputedStyle(document.body).color,
    cut: Math.max(...[...document.querySelectorAll('.broad .scroll')].map(e => e.scrollWidth - e.clientWidth)),
    small: Math.min(...[...document.querySelectorAll('svg text')].map(e => e.getBoundingClientRect().height)),
  };
  parent.postMessage(JSON.stringify(result), '*');
});
</script>
"""
# A window cannot be narrower than 500 pixels, but a frame in it can, and it is what the page goes by.
FRAME = """<!doctype html><output></output><script>
addEventListener('message', e => { document.querySelector('output').textContent = e.data; });
</script><iframe src="asked.html" width="{width}" height="800" style="border: 0"></iframe>"""


def chromium(page: Path, *flags: str, width: int = 1280, height: int = 1000) -> subprocess.CompletedProcess[str]:
    """Open a page; the DOM or a screenshot by `flags`, the console in stderr."""
    found = shutil.which('chromium') or shutil.which('google-chrome')
    assert found, 'this test needs Chromium: apt-get install -y chromium'
    command = [
        found, '--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--hide-scrollbars',
        '--enable-logging=stderr', f'--user-data-dir={page.parent / "profile"}', f'--window-size={width},{height}',
        '--virtual-time-budget=3000', *flags, page.as_uri(),
    ]  # fmt: skip
    environment = {**os.environ, 'HOME': str(page.parent)}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=environment)


def ask(page: Path, *flags: str, width: int) -> dict:
    """The answers to QUESTIONS, from a copy of the page in a frame of that width."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', '', page.read_text())
    page.with_name('asked.html').write_text(text.replace('</body>', QUESTIONS + '</body>'))
    frame = page.with_name('frame.html')
    frame.write_text(FRAME.replace('{width}', str(width)))
    dom = chromium(frame, '--dump-dom', *flags, width=width + 100).stdout
    found = re.search(r'<output>(.*?)</output>', dom)
    assert found, dom[-2000:]
    return json.loads(found[1].replace('&gt;', '>').replace('&lt;', '<').replace('&amp;', '&'))


@pytest.fixture(scope='module')
def pages(tmp_path_factory):
    """One page of small grey pictures, one of photographs with long names, each in its own folder."""
    root = tmp_path_factory.mktemp('pages')
    breeds = tuple(f'{i:03d}. a breed with a rather long name, number {i}' for i in range(30))
    methods = {'finetune': 0.7, 'mixup': 0.71, 'x_with_a_label_that_is_far_longer_than_usual': 0.73}
    long = {'finetune': 0.7, 'mixup_with_label_smoothing': 0.71, 'feature_extraction_balanced': 0.6}
    return {
        'digits': write(fake.predict_all(fake.make_comparison(root / 'digits'))),
        'long': write(fake.predict_all(fake.make_comparison(root / 'long', long))),
        'breeds': write(
            fake.predict_all(fake.make_comparison(root / 'breeds', methods, classes=breeds, side=224, channels=3))
        ),
    }


@pytest.mark.parametrize('name', ['digits', 'breeds'])
@pytest.mark.parametrize('width', [320, 390, 1280])
def test_nothing_sticks_out_and_everything_is_there(pages, name, width):
    found = ask(pages[name], width=width)
    assert found['inner'] == width
    assert (found['scroll'] <= found['client'], found['out']) == (True, [])
    assert found['images'] > 20 and found['broken'] == 0
    assert found['focusable'] > 8 and found['unreachable'] == 0
    assert found['small'] >= 8  # the height of a line of text in a chart


def test_the_differences_are_seen_on_a_wide_screen(pages):
    assert ask(pages['long'], width=1280)['cut'] <= 0 < ask(pages['long'], width=390)['cut']


def test_light_and_dark(pages):
    light = ask(pages['digits'], '--blink-settings=preferredColorScheme=1', width=390)
    dark = ask(pages['digits'], '--blink-settings=preferredColorScheme=0', width=390)
    assert (light['ground'], dark['ground']) == ('rgb(253, 253, 252)', 'rgb(21, 23, 26)')
    assert light['ink'] != dark['ink']


@pytest.mark.parametrize('width', [390, 1280])
def test_opens_without_console_messages(pages, tmp_path, width):
    picture = tmp_path / 'screenshot.png'
    done = chromium(pages['digits'], f'--screenshot={picture}', width=width, height=2000)
    assert 'CONSOLE' not in done.stderr
    data = picture.read_bytes()
    assert struct.unpack('>II', data[16:24]) == (width, 2000)
    assert len(data) > 30_000  # an empty page is a few kilobytes


def test_console_messages_are_detected(pages):
    """A script in the page itself is against its policy, and that is an error in the console."""
    loud = pages['digits'].with_name('loud.html')
    loud.write_text(pages['digits'].read_text().replace('</body>', '<script>document.title = 1</script></body>'))
    done = chromium(loud, '--dump-dom')
    assert 'CONSOLE' in done.stderr and 'Content Security Policy' in done.stderr
    assert '<title>1</title>' not in done.stdout
