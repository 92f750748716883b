"""The page in a real Chromium, headless."""

import os
import shutil
import time

import pytest
from PIL import Image

from tests.helpers.image_folder import draw_color

selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --disable-dev-shm-usage "
    "--force-prefers-reduced-motion"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("chromium or chromedriver is not installed")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    browser = selenium.Chrome(options, selenium.ChromeService(driver))
    yield browser
    browser.quit()


class Page:
    """The page as a user sees and operates it."""

    def __init__(self, browser, url):
        self.browser = browser
        browser.get(url)

    def one(self, selector):
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def until(self, condition):
        return WebDriverWait(self.browser, 10, 0.02).until(lambda _: condition())

    def run(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def settled(self, words):
        """Waits for an answer with these words in the status or the error."""
        self.until(
            lambda: (
                self.one("#results").get_attribute("aria-busy") == "false"
                and words in self.one("#status").text + self.one("#error").text
            )
        )
        return self

    @property
    def names(self):
        script = "return [...document.querySelectorAll('#matches small')].map(n => n.title)"
        return self.run(script)

    @property
    def categories(self):
        return {name.split("/")[0] for name in self.names}

    def choose(self, selector, value):
        script = "const n = document.querySelector(arguments[0]); n.value = arguments[1];"
        self.run(script + "n.dispatchEvent(new Event('change', {bubbles: true}))", selector, value)

    def shot(self, name):
        if os.environ.get("SCREENSHOTS"):
            time.sleep(0.3)  # thumbnails
            self.browser.save_screenshot(f"{os.environ['SCREENSHOTS']}/{name}.png")


@pytest.fixture
def page(browser, url):
    browser.set_window_size(1280, 900)
    return Page(browser, url).settled("Choose one")


@pytest.fixture
def file(tmp_path):
    draw_color("red", 99).save(tmp_path / "mine.png")
    return tmp_path / "mine.png"


def test_upload_click_through_and_back(page, file, index):
    assert len(page.names) == 12
    page.shot("start")
    page.one("#file").send_keys(str(file))
    page.settled("10 matches")
    first = page.names
    assert [n.split("/")[0] for n in first[:4]] == ["red"] * 4
    distances = [
        float(d.text) for d in page.browser.find_elements(By.CSS_SELECTOR, "#matches data")
    ]
    assert distances == sorted(distances) and len(distances) == 10
    assert page.one("#query-name").text == "mine.png"
    page.shot("results")

    chosen = page.one("#matches li:nth-child(6) button")
    number, name = int(chosen.get_attribute("data-image")), first[5]
    chosen.send_keys(Keys.ENTER)  # by keyboard
    page.until(lambda: page.one("#query-name").text == name)
    page.settled("10 matches")
    assert page.names == [m.name for m in index.search(number, 10)]
    assert page.browser.current_url.endswith(f"?image={number}")
    page.browser.back()
    page.until(lambda: page.names == first)
    page.browser.get(page.browser.current_url.split("?")[0] + f"?image={number}")  # a link
    page.until(lambda: page.names == [m.name for m in index.search(number, 10)])


def test_category_number_and_threshold(page, file):
    page.choose("#category", "=green")
    page.until(lambda: page.categories == {"green"})
    page.one("#file").send_keys(str(file))
    page.settled("4 matches")
    assert page.categories == {"green"}
    page.choose("#category", "")
    page.settled("10 matches")
    page.choose("#k", "5")
    page.settled("5 matches")
    page.choose("#max", "0.001")
    page.settled("No image within this distance")
    assert page.names == []


def test_a_corrupt_upload_shows_an_error_and_the_next_one_works(page, file, tmp_path):
    (tmp_path / "no.jpg").write_text("not an image")
    page.one("#file").send_keys(str(tmp_path / "no.jpg"))
    page.settled("Cannot decode image")
    assert page.one("#error").is_displayed() and page.names == []
    page.shot("error")
    (tmp_path / "large.jpg").write_bytes(bytes(2 << 20))
    page.one("#file").send_keys(str(tmp_path / "large.jpg"))
    page.settled("larger than 1 MB")
    page.one("#file").send_keys(str(file))
    page.settled("10 matches")
    assert not page.one("#error").is_displayed()


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_drop_and_paste(page, kind):
    script = """
        const [kind, done] = arguments, canvas = document.createElement('canvas');
        const paint = canvas.getContext('2d');
        paint.fillStyle = 'rgb(40, 70, 220)';
        paint.fillRect(0, 0, 300, 150);
        canvas.toBlob((blob) => {
          const data = new DataTransfer();
          data.items.add(new File([blob], 'blue.png', {type: 'image/png'}));
          const values = {bubbles: true, cancelable: true, dataTransfer: data, clipboardData: data};
          const make = kind === 'drop' ? DragEvent : ClipboardEvent;
          document.body.dispatchEvent(new make(kind, values));
          done();
        });"""
    page.browser.execute_async_script(script, kind)
    page.settled("10 matches")
    assert page.names[0].startswith("blue/")


def test_crop_by_keyboard_and_by_mouse(page, tmp_path):
    both = Image.new("RGB", (400, 200))
    both.paste(draw_color("red", 1).resize((200, 200)), (0, 0))
    both.paste(draw_color("blue", 1).resize((200, 200)), (200, 0))
    both.save(tmp_path / "both.png")
    page.one("#file").send_keys(str(tmp_path / "both.png"))
    page.settled("10 matches")
    page.one("#crop").click()
    page.settled("10 matches")
    assert page.browser.switch_to.active_element.get_attribute("id") == "box"
    for _ in range(12):  # smaller from the right: only red is left
        page.one("#box").send_keys(Keys.SHIFT + Keys.ARROW_LEFT)
    page.until(lambda: page.names and page.names[0].startswith("red/"))
    page.shot("crop")
    actions = selenium.ActionChains(page.browser, duration=50)
    width = page.one("#stage").size["width"]
    actions.drag_and_drop_by_offset(page.one("#box"), int(width * 0.55), 0).perform()
    page.until(lambda: page.names and page.names[0].startswith("blue/"))
    page.one("#crop").click()
    page.settled("10 matches")
    assert not page.one("#box").is_displayed()


def test_page_fits_a_phone(page, file):
    page.browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True},
    )
    page.browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    try:
        page.one("#file").send_keys(str(file))
        page.settled("10 matches")
        assert page.run("return innerWidth") == 390
        assert page.run("return document.documentElement.scrollWidth") <= 390
        assert page.one("label.touch").is_displayed()  # takes a photo
        assert page.one("#camera").get_attribute("capture") == "environment"
        page.shot("phone")
        page.run("document.getElementById('results').scrollIntoView()")
        page.shot("phone-results")
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


def test_page_loads_only_from_its_server_and_labels_all_controls(page, file, url):
    page.one("#file").send_keys(str(file))
    page.settled("10 matches")
    loaded = page.run("return performance.getEntriesByType('resource').map(e => e.name)")
    assert loaded and all(u.startswith((url, "blob:", "data:")) for u in loaded)
    unnamed = """return [...document.querySelectorAll('button, input, select')].filter(n =>
        !n.textContent.trim() && !n.labels?.length && !n.title).length"""
    assert page.run(unnamed) == 0
    # refusals of other tests are logged as "network"
    log = [e for e in page.browser.get_log("browser") if e["source"] != "network"]
    assert not log
