"""A real Chromium, headless, for tests of pages; they are skipped where there is none."""

from __future__ import annotations

import contextlib
import shutil

import pytest

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--disable-dev-shm-usage")  # fmt: skip


def chromium():
    """Paths of the browser and its driver; skips the test without them."""
    pytest.importorskip("selenium", reason="selenium is absent: pip install '.[test]'")
    browser = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("no Chromium and chromedriver here: apt-get install chromium chromium-driver")
    return browser, driver


@contextlib.contextmanager
def started(profile):
    """The browser, with a fresh profile in the folder ``profile``."""
    place, driver = chromium()
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = place
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driven = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield driven
    finally:
        driven.quit()
