"""The page of `mixjax serve` in a real browser, from a real process: photographs come in on every way."""

import json
import time

import pytest
from PIL import Image

from tests.browser.keyboard import Browser
from tests.support.digit_run import train_on_digits
from tests.support.http_server import started

pytestmark = pytest.mark.browser

CARDS = 'document.querySelectorAll("article").length'
DONE = f'{CARDS} > 0 && !document.querySelector("[aria-busy]")'
SAID = 'document.getElementById("status").textContent'
TOKEN = 'a-token-of-24-characters'
# What reaches beyond the page.
OUT = """[...document.querySelectorAll("body *")].filter(e => e.checkVisibility()
    && e.getBoundingClientRect().right > document.documentElement.clientWidth + 1).map(e => e.outerHTML.slice(0, 99))"""
LONG = 'a_class_with_a_name_that_is_far_longer_than_any_that_a_telephone_has_room_for'


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A run whose first class has a long name, and its photographs."""
    folder = tmp_path_factory.mktemp('served')
    train_on_digits(folder, names={'0': LONG})
    (folder / 'broken.jpg').write_bytes(b'not an image')
    wide = Image.open(folder / 'photos' / '1' / '0.png').convert('RGB').resize((64, 64))
    picture = Image.new('RGB', (160, 64), 'navy')
    picture.paste(wide, (48, 0))
    picture.save(folder / 'wide photograph.jpg')
    return folder


@pytest.fixture(scope='module')
def port(run):
    with started(run, str(run / 'run'), 'embedded://glyphnet') as (_, port, _):
        yield port


def page(port, folder, width=1000, **how):
    return Browser((f'http://127.0.0.1:{port}/', folder), width, **how)


def choose(browser, *files):
    """Give files to the element that a person's file dialog would fill."""
    browser.call('DOM.enable')
    root = browser.call('DOM.getDocument')['root']['nodeId']
    node = browser.call('DOM.querySelector', nodeId=root, selector='#files')['nodeId']
    browser.call('DOM.setFileInputFiles', files=[str(file) for file in files], nodeId=node)


def test_a_dropped_photograph(run, port, tmp_path):
    with page(port, tmp_path) as browser:
        browser.wait('!document.getElementById("drop").hidden')
        data = {'items': [], 'files': [str(run / 'wide photograph.jpg')], 'dragOperationsMask': 1}
        for kind in ('dragEnter', 'dragOver'):
            browser.call('Input.dispatchDragEvent', type=kind, x=500, y=700, data=data)
        assert browser.ask('document.getElementById("drop").classList.contains("over")')
        browser.call('Input.dispatchDragEvent', type='drop', x=500, y=700, data=data)
        browser.wait(DONE)
        assert browser.loaded == 1  # it has not opened the file
        assert browser.ask('document.querySelectorAll(".model").length') == 2  # side by side
        left, right = (f'[...document.querySelectorAll(".model")][{k}].getBoundingClientRect()' for k in (0, 1))
        assert browser.ask(f'{left}.top === {right}.top && {left}.right <= {right}.left')
        head = browser.ask('document.querySelector(".headline").innerText')
        assert head.startswith('1 ') and head.endswith(' %')
        assert browser.ask('document.querySelectorAll(".nearest li").length') == 5
        bars = browser.ask('[...document.querySelectorAll(".model")].map(e => e.querySelectorAll(".bars li").length)')
        assert bars == [4, 5]
        widths = browser.ask('[...document.querySelectorAll(".model .bar span")].map(e => parseFloat(e.style.width))')
        shown = browser.ask('[...document.querySelectorAll(".bars .value")].map(e => parseFloat(e.innerText))')
        assert widths == pytest.approx(shown, abs=0.051)
        broken = '[...document.images].filter(e => !e.complete || e.naturalWidth === 0).length'
        browser.wait(f'{broken} === 0')
        assert browser.ask(SAID).startswith('wide photograph.jpg: run: 1, ')
        assert browser.console == []


def test_by_keyboard_alone(run, port, tmp_path):
    with page(port, tmp_path, 390) as browser:
        browser.wait('!document.getElementById("drop").hidden')
        browser.call('Page.setInterceptFileChooserDialog', enabled=True)
        browser.tab_to('#choose')
        assert browser.ask('getComputedStyle(document.activeElement).outlineStyle') == 'solid'  # one sees where one is
        browser.press('Enter')
        browser.wait('true')
        until = time.monotonic() + 30
        while not (asked := [one for one in browser.events if one['method'] == 'Page.fileChooserOpened']):
            assert time.monotonic() < until
            browser.ask('1')
        files = [str(run / 'photos' / '2' / '0.png'), str(run / 'photos' / '3' / '1.png')]
        browser.call('DOM.setFileInputFiles', files=files, backendNodeId=asked[0]['params']['backendNodeId'])
        browser.wait(f'{DONE} && {CARDS} === 2')
        names = browser.ask('[...document.querySelectorAll("article h2")].map(e => e.innerText)')
        assert names == ['0.png', '1.png']
        maps = '[...document.querySelectorAll(".photo img")].map(e => e.src.slice(0, 5))'
        assert browser.ask(maps) == ['data:'] * 4
        browser.tab_to('#maps')
        browser.press('Space')
        assert browser.ask(maps) == ['blob:'] * 4
        browser.tab_to('#clear')
        browser.tab_to('article button')
        assert browser.ask('document.activeElement.getAttribute("aria-label")') == 'Remove 0.png'
        browser.press('Enter')
        assert browser.ask(CARDS) == 1
        # The focus is where one goes on, and not lost.
        assert browser.ask('document.activeElement.getAttribute("aria-label")') == 'Remove 1.png'
        browser.press('Enter')
        assert browser.ask(CARDS) == 0 and browser.ask('document.activeElement.id') == 'choose'
        assert browser.console == []


@pytest.mark.parametrize(('width', 'dark'), [(320, False), (390, True), (1280, False)])
def test_nothing_sticks_out(run, port, tmp_path, width, dark):
    with page(port, tmp_path, width, dark=dark) as browser:
        browser.wait('!document.getElementById("drop").hidden')
        assert browser.ask(OUT) == []
        choose(browser, run / 'photos' / LONG / '0.png', run / 'wide photograph.jpg', run / 'broken.jpg')
        browser.wait(f'{DONE} && {CARDS} === 3')
        assert browser.ask(f'document.body.innerText.includes("{LONG}")')
        assert browser.ask(OUT) == [] and browser.ask('document.documentElement.scrollWidth') <= width
        assert browser.ask('innerWidth') == width
        small = '[...document.querySelectorAll("#drop button")].filter(e => e.checkVisibility())'
        assert browser.ask(f'{small}.every(e => e.getBoundingClientRect().height >= 44)')  # a thumb finds them
        ground = browser.ask('getComputedStyle(document.body).backgroundColor')
        assert ground == ('rgb(21, 23, 26)' if dark else 'rgb(253, 253, 252)')


def test_screen_readers_hear_names_and_news(run, port, tmp_path):
    with page(port, tmp_path) as browser:
        browser.wait('!document.getElementById("drop").hidden')
        choose(browser, run / 'photos' / LONG / '0.png')
        browser.wait(DONE)
        nodes = browser.call('Accessibility.getFullAXTree')['nodes']
        found = [(one['role']['value'], one.get('name', {}).get('value', '')) for one in nodes if not one['ignored']]
        named = {'button', 'checkbox', 'image', 'img', 'article', 'region', 'list', 'heading'}
        assert {role for role, _ in found} >= {'button', 'checkbox', 'article', 'region', 'heading', 'status'}
        assert not [(role, name) for role, name in found if role in named and not name]
        assert ('button', 'Remove 0.png') in found and ('list', 'Probabilities') in found
        seen = [name for role, name in found if role in ('image', 'img')]
        assert any(name.startswith('0.png, with the region marked') for name in seen)
        assert browser.ask(SAID).startswith('0.png: run: ')


def test_a_pasted_photograph_and_what_is_not_one(run, port, tmp_path):
    pasted = """(async () => { const data = new DataTransfer(); const canvas = document.createElement('canvas');
        canvas.width = canvas.height = 40; const blob = await new Promise(done => canvas.toBlob(done));
        data.items.add(new File([blob], 'pasted.png', { type: 'image/png' }));
        document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data })); })(); 0"""
    with page(port, tmp_path) as browser:
        browser.wait('!document.getElementById("drop").hidden')
        browser.ask(pasted)
        browser.wait(f'{DONE} && {CARDS} === 1')
        assert browser.ask('document.querySelectorAll(".bars").length') == 2
        choose(browser, run / 'broken.jpg')
        browser.wait(f'{DONE} && {CARDS} === 2')
        error = browser.ask('document.querySelector(".error").innerText')
        assert error == 'broken.jpg: it is not a picture (JPEG, PNG, GIF, WEBP, BMP, TIFF, PPM)'
        assert browser.ask(SAID) == error


def test_the_camera(port, tmp_path):
    flags = ('--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream')
    with page(port, tmp_path, flags=flags) as browser:
        browser.wait('!document.getElementById("camera").hidden')
        browser.tab_to('#camera')
        browser.press('Enter')
        browser.wait('document.activeElement.id === "take"')
        browser.press('Enter')
        browser.wait(DONE)
        assert browser.ask('document.querySelector("article h2").innerText').startswith('camera ')
        assert browser.ask('document.querySelectorAll(".bars").length') == 2
        browser.tab_to('#close')
        browser.press('Enter')
        assert browser.ask('document.getElementById("live").hidden && document.activeElement.id === "camera"')
        assert browser.ask('document.getElementById("video").srcObject === null')
        assert browser.console == []


def test_a_server_with_a_token(run, tmp_path):
    with started(tmp_path, 'embedded://glyphnet', f'--token={TOKEN}') as (process, port, said):
        assert f'/#token={TOKEN} in a browser' in said
        with page(port, tmp_path) as browser:
            browser.wait('document.activeElement.id === "token"')
            assert browser.ask('document.getElementById("drop").hidden')
            for text, then in (('wrong', f'{SAID} === "That is not the token."'),
                               (TOKEN, '!document.getElementById("drop").hidden')):  # fmt: skip
                browser.call('Input.insertText', text=text)
                browser.press('Enter')
                browser.wait(then)
            choose(browser, run / 'wide photograph.jpg')
            browser.wait(DONE)
            assert browser.ask('document.querySelectorAll(".bars").length') == 1
            assert json.loads(browser.ask('JSON.stringify([localStorage.length, document.cookie])')) == [0, '']
        with Browser((f'http://127.0.0.1:{port}/#token={TOKEN}', tmp_path), 1000) as browser:
            browser.wait('!document.getElementById("drop").hidden')
            process.kill()  # and the page says what has happened
            process.wait()
            choose(browser, run / 'wide photograph.jpg')
            browser.wait(f'{DONE}')
            assert browser.ask(SAID) == 'wide photograph.jpg: the server does not answer'
