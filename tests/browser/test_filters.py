"""The report of a grid in a real browser, used by keyboard alone."""

import pytest

from mixjax.report import write
from tests.browser.keyboard import Browser
from tests.support import fake

pytestmark = pytest.mark.browser

LONG = 'a_data_set_with_a_name_that_is_far_longer_than_usual'
CELLS = {
    f'{data} {method} {rate}': [0.5 + 0.01 * place, 0.52 + 0.01 * place]
    for data in ('birds', LONG)
    for rate in ('0.15', '1.0')
    for place, method in enumerate(('finetune', 'mixup', 'smile'))
}
SEEN = 'e => e.checkVisibility()'
ROWS = f'[...document.querySelectorAll("tr.line")].filter({SEEN})'
HEADS = f'[...document.querySelectorAll("tbody")].filter({SEEN}).length'
SECTIONS = f'[...document.querySelectorAll("section.folder")].filter({SEEN}).length'
# What reaches beyond the page, but for what lies in a box of its own that scrolls.
OUT = """[...document.querySelectorAll("body *")].filter(e => !e.closest(".scroll, pre") && e.checkVisibility()
    && e.getBoundingClientRect().right > document.documentElement.clientWidth + 1).map(e => e.outerHTML.slice(0, 99))"""


@pytest.fixture(scope='module')
def page(tmp_path_factory):
    root = fake.make_grid(tmp_path_factory.mktemp('runs') / 'grid', CELLS)
    for run in root.iterdir():
        fake.predict(run)
    return write(root)


def box(browser, text):
    """The selector of the box with that label."""
    return '#' + browser.ask(
        f'[...document.querySelectorAll("label")].find(e => e.innerText.trim().startsWith("{text}")).control.id'
    )


def test_filters_by_keyboard(page):
    with Browser(page, 390) as browser:
        assert browser.ask(f'{ROWS}.length') == 12 and browser.ask(SECTIONS) == 12
        browser.tab_to(box(browser, 'birds'))
        assert browser.ask('getComputedStyle(document.activeElement).outlineStyle') == 'solid'  # one sees where one is
        browser.press('Space')
        assert browser.ask(f'{ROWS}.length') == 6 and browser.ask(HEADS) == 2 and browser.ask(SECTIONS) == 6
        assert all(name.startswith('birds') for name in browser.ask(f'{ROWS}.map(e => e.lastChild.innerText)'))
        assert browser.tab_to(box(browser, 'all')) <= 4
        browser.press('Space')
        assert browser.ask(f'{ROWS}.length') == 3 and browser.ask(HEADS) == 1
        browser.tab_to(box(browser, 'smile'))
        browser.press('Space')
        assert browser.ask(f'{ROWS}.map(e => e.lastChild.innerText)') == ['birds-smile-1.0']
        assert browser.ask(SECTIONS) == 1
        browser.press('Enter')  # in a form it must not load the page again
        assert browser.loaded == 1 and browser.ask('document.querySelectorAll(":checked").length') == 3
        browser.tab_to('button[type=reset]')
        browser.press('Enter')
        assert browser.ask(f'{ROWS}.length') == 12 and browser.ask('document.querySelectorAll(":checked").length') == 0
        assert browser.console == []


def test_from_the_table_to_a_run_by_keyboard(page):
    with Browser(page, 1280) as browser:
        browser.tab_to('.runs .scroll')
        browser.tab_to('tr.line a')
        target = browser.ask('document.activeElement.getAttribute("href")')
        browser.press('Enter')
        assert browser.ask('location.hash') == target
        assert browser.ask(f'document.querySelector("{target} details").open') is False
        assert browser.tab_to('summary') == 1
        browser.press('Enter')
        assert browser.ask(f'document.querySelector("{target} details").open') is True
        assert browser.ask(f'[...document.querySelectorAll("{target} img")].filter({SEEN}).length') > 10
        assert browser.ask('[...document.images].filter(e => e.complete && e.naturalWidth === 0).length') == 0
        assert browser.console == []


@pytest.mark.parametrize('width', [320, 390, 1280])
def test_nothing_sticks_out_of_a_grid(page, width):
    with Browser(page, width, dark=width == 390) as browser:
        assert browser.ask('innerWidth') == width
        for opened in ('false', 'true'):
            browser.ask(f'document.querySelectorAll("details").forEach(e => {{ e.open = {opened}; }})')
            assert browser.ask(OUT) == []
            assert browser.ask('document.documentElement.scrollWidth') <= width
        assert browser.console == []


def test_without_css_has_everything_is_shown(page):
    """A browser that does not know `:has()`: as if it was another word."""
    old = page.with_name('old.html')
    old.write_text(
        page.read_text().replace(':has(', ':unheard-of(').replace('selector(:unheard-of(*))', 'selector(:x-y)')
    )
    with Browser(old, 390) as browser:
        assert browser.ask(f'{ROWS}.length') == 12 and browser.ask(SECTIONS) == 12
        assert not browser.ask('document.querySelector(".filters").checkVisibility()')
        assert browser.console == []


def test_console_messages_are_detected(page):
    loud = page.with_name('loud.html')
    loud.write_text(page.read_text().replace('</body>', '<script>document.title = 1</script></body>'))
    with Browser(loud, 390) as browser:
        assert any('Content Security Policy' in line for line in browser.console)
