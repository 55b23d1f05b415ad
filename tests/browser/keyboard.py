"""A page in Chromium and a person at its keyboard: keys are pressed as the browser's own, which no script can do."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

KEYS = {'Tab': (9, ''), 'Enter': (13, '\r'), 'Space': (32, ' '), 'ArrowDown': (40, '')}
WAIT = 60.0  # seconds for one answer


class Browser:
    """One page of a width. console: what it has said there, in words. Spoken to by a pipe, in the DevTools protocol.

    page: a file, or an address with a folder for the browser's own files. flags: further ones of Chromium.
    """

    def __init__(
        self, page: Path | tuple[str, Path], width: int, *, dark: bool = False, flags: tuple[str, ...] = ()
    ) -> None:
        address, home = page if isinstance(page, tuple) else (page.as_uri(), page.parent)
        found = shutil.which('chromium') or shutil.which('google-chrome')
        assert found, 'this test needs Chromium: apt-get install -y chromium'
        (ours, theirs), (answers, said) = os.pipe(), os.pipe()
        command = [
            found, '--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--hide-scrollbars',
            f'--user-data-dir={home / "profile"}', '--remote-debugging-pipe', *flags, 'about:blank',
        ]  # fmt: skip
        # It reads from 3 and writes to 4; by high numbers on the way, as these may be among ours.
        shell = f'exec 98<&{ours} 99>&{said}; exec "$0" "$@" 3<&98 4>&99'
        self.process = subprocess.Popen(
            ['bash', '-c', shell, *command], pass_fds=(ours, said), stderr=subprocess.DEVNULL,
            env={**os.environ, 'HOME': str(home)},
        )  # fmt: skip
        os.close(ours)
        os.close(said)
        self.say, self.hear, self.buffer, self.number = theirs, answers, b'', 0
        self.console: list[str] = []
        self.events: list[dict[str, Any]] = []
        self.loaded, self.session = 0, None
        target = self.call('Target.createTarget', url='about:blank')['targetId']
        self.session = self.call('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
        for name in ('Page', 'Runtime', 'Log'):
            self.call(f'{name}.enable')
        self.call('Emulation.setDeviceMetricsOverride', width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = {'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}
        self.call('Emulation.setEmulatedMedia', features=[scheme])
        self.call('Page.navigate', url=address)
        while not self.loaded:
            self._next(time.monotonic() + WAIT)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.say)
        self.process.kill()
        self.process.wait()
        os.close(self.hear)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.number += 1
        message = {'id': self.number, 'method': method, 'params': params}
        message |= {'sessionId': self.session} if self.session else {}
        os.write(self.say, json.dumps(message).encode() + b'\0')
        until = time.monotonic() + WAIT
        while (answer := self._next(until)).get('id') != self.number:
            pass
        assert 'error' not in answer, (method, answer)
        return answer['result']

    def _next(self, until: float) -> dict[str, Any]:
        """The next message; what it says of the page is kept."""
        while b'\0' not in self.buffer:
            assert time.monotonic() < until, 'the browser says nothing'
            part = os.read(self.hear, 1 << 16)
            assert part, 'the browser has ended'
            self.buffer += part
        text, _, self.buffer = self.buffer.partition(b'\0')
        message = json.loads(text)
        event = message.get('method', '')
        self.loaded += event == 'Page.loadEventFired'
        self.events += [message] if event else []
        if event in ('Runtime.consoleAPICalled', 'Runtime.exceptionThrown', 'Log.entryAdded'):
            self.console.append(json.dumps(message['params'])[:500])
        return message

    def press(self, key: str, times: int = 1) -> None:
        code, text = KEYS[key]
        what = {'key': ' ' if key == 'Space' else key, 'code': key, 'windowsVirtualKeyCode': code}
        for _ in range(times):
            self.call('Input.dispatchKeyEvent', type='keyDown', text=text, **what)
            self.call('Input.dispatchKeyEvent', type='keyUp', **what)

    def ask(self, expression: str) -> Any:
        """The value of an expression in the page."""
        found = self.call('Runtime.evaluate', expression=expression, returnByValue=True)
        assert 'exceptionDetails' not in found, found
        return found['result'].get('value')

    def wait(self, expression: str, seconds: float = WAIT) -> Any:
        """The value of an expression in the page, once it is true."""
        until = time.monotonic() + seconds
        while not (found := self.ask(expression)):
            assert time.monotonic() < until, f'{expression} does not become true; it says {self.console}'
            time.sleep(0.05)
        return found

    def shot(self, path: Path, width: int, *, whole: bool = True) -> None:
        """Write a picture of the page."""
        height = self.ask('document.documentElement.scrollHeight') if whole else 900
        clip = {'x': 0, 'y': 0, 'width': width, 'height': height, 'scale': 1}
        data = self.call('Page.captureScreenshot', format='png', clip=clip, captureBeyondViewport=True)['data']
        path.write_bytes(base64.b64decode(data))

    def tab_to(self, selector: str, most: int = 60) -> int:
        """Press Tab until an element has the focus; how often that took."""
        for count in range(1, most + 1):
            self.press('Tab')
            if self.ask(f'document.activeElement.matches({json.dumps(selector)})'):
                return count
        raise AssertionError(f'{selector} is not reached by {most} times Tab')
