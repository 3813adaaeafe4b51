"""A real browser: the Chromium of the distribution, without a window, driven over its DevTools protocol."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def _executable() -> str:
    for path in filter(None, map(shutil.which, _NAMES)):
        return path
    words = "no Chromium found: apt-get install chromium"
    if os.environ.get("CXRPIPE_NEEDS_BROWSER"):  # set by .ci/run
        pytest.fail(words)
    pytest.skip(words)


@contextmanager
def chromium() -> Iterator[Browser]:
    # Chromium refuses to run as root inside its sandbox. It opens nothing but pages of our own server.
    path, arguments = _executable(), ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        try:
            yield browser
        finally:
            browser.close()
