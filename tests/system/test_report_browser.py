"""The report in a real browser: nothing fails to load, and it fits a phone."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from pathlib import Path

import pytest
from helpers.report_run import make_pair

from ctkd_mm.analysis.report.page import write_report

PHONE = dict(width=375, height=812, deviceScaleFactor=2, mobile=True)
# No network of its own, no first-run pages; root cannot have the sandbox.
OPTIONS = (
    '--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run '
    '--disable-background-networking --disable-component-update --disable-sync '
    '--disable-dev-shm-usage'
)
# Of each figure with boxes: whether its picture, its own or another's, was decoded.
PICTURES = """
const shots = [...document.querySelectorAll('.shot')];
const own = shot => shot.querySelector('image') ||
  document.querySelector(shot.querySelector('use').getAttribute('href'));
Promise.all(shots.map(shot => Promise.resolve(own(shot)).then(image => image.decode())
  .then(() => true, () => false))).then(arguments[0]);
"""
pytestmark = pytest.mark.process


def why_not() -> str:
    missing = [name for name in ('chromium', 'chromedriver') if not shutil.which(name)]
    if importlib.util.find_spec('selenium') is None:
        missing.append('selenium')
    return f'not installed: {missing}' if missing else ''


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
    if why_not():
        if os.environ.get('CTKD_MM_REQUIRE_CHROMIUM'):
            pytest.fail(why_not())
        pytest.skip(why_not())
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which('chromium')
    for option in OPTIONS.split():
        options.add_argument(option)
    options.add_argument(f'--user-data-dir={tmp_path_factory.mktemp("profile")}')
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
    driver = webdriver.Chrome(options, Service(shutil.which('chromedriver')))
    driver.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', PHONE)
    yield driver
    driver.quit()


@pytest.fixture(scope='module')
def page(browser, tmp_path_factory, digits_options):
    # Long enough for a path of it to need the page's rules for long texts.
    folder = tmp_path_factory.mktemp('report_of_runs_in_a_folder_with_a_long_name')
    return write_report(make_pair(folder, digits_options), folder / 'report.html')


def check(browser, page: Path) -> None:
    """Open a page on a phone; fail unless all of it is there and fits."""
    browser.get_log('browser')  # of the page before
    browser.get(page.as_uri())
    widths = browser.execute_script(
        'return [document.scrollingElement.scrollWidth, innerWidth]'
    )
    assert widths == [375, 375], f'content and window are {widths} pixels wide'
    cells = browser.execute_script(
        "return [...document.querySelectorAll('th, td')].filter(cell => "
        'Math.max(cell.scrollWidth - cell.clientWidth, cell.offsetWidth - innerWidth)'
        ' > 0).map(cell => cell.textContent)'
    )
    assert cells == [], f'too wide for a cell: {cells}'
    pictures = browser.execute_async_script(PICTURES)
    assert pictures == [True] * 12, f'pictures are there: {pictures}'
    console = '\n'.join(line['message'] for line in browser.get_log('browser'))
    assert not console, console


def test_the_report_is_whole_in_a_browser_and_fits_a_phone(browser, page):
    check(browser, page)
    assert browser.title == 'Run report: teacher, student, ctkd'
    assert browser.execute_script('return document.scripts.length') == 0


@pytest.mark.parametrize(
    ('old', 'new', 'what'),
    [
        ('href="data:[^"]*"', 'href="data:image/png;base64,AAAA"', 'pictures are'),
        ('href="data:[^"]*"', 'href="gone.png"', 'pictures are'),
        ('<use href="#picture', '<use href="#other', 'pictures are'),
        ('class="shot"', 'style="width: 500px" class="shot"', 'pixels wide'),
        (r'td\.long {', 'td { white-space: nowrap;', 'too wide for a cell'),
        (r'\.long { max', 'p { max', 'too wide for a cell'),
        ('<body>', '<body><script>let x</script>', 'Content Security Policy'),
    ],
)
def test_a_page_with_a_fault_is_told(browser, page, old, new, what):
    text, count = re.subn(old, new, page.read_text(), count=1)
    assert count == 1
    faulty = page.with_name('faulty.html')
    faulty.write_text(text)
    with pytest.raises(AssertionError, match=what):
        check(browser, faulty)
