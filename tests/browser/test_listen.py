"""The listening page in a browser, from the file system: everything loads, one player sounds at a time."""

from collections.abc import Iterator

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from tests.helpers.live_server import wait_for
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.browser

PHONE = {"width": 390, "height": 800, "deviceScaleFactor": 2, "mobile": True}
SEEK_ERROR = 0.05  # Seconds: the first sound plays on until the second one has started.


@pytest.fixture
def page(browser: webdriver.Chrome) -> Iterator[webdriver.Chrome]:
    """The page with all its sounds loaded; nothing must be logged as an error."""
    browser.get((ROOT / "docs/listen.html").as_uri())
    wait_for(lambda: browser.execute_script("return sounds.every(audio => audio.readyState >= 3)"))
    yield browser
    errors = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert errors == []
    browser.get("about:blank")


def playing(page: webdriver.Chrome) -> list[int]:
    """The numbers of the players that sound."""
    return page.execute_script("return sounds.flatMap((audio, number) => audio.paused ? [] : [number])")


def test_one_player_sounds_at_a_time(page: webdriver.Chrome):
    page.execute_script("sounds[0].play()")
    wait_for(lambda: page.execute_script("return sounds[0].currentTime") > 0.2)
    assert playing(page) == [0]
    page.execute_script("sounds[3].play()")
    wait_for(lambda: playing(page) == [3])


def test_the_button_goes_to_the_same_moment_of_the_other_sound(page: webdriver.Chrome):
    page.execute_script("sounds[0].currentTime = 5; sounds[0].play()")
    wait_for(lambda: page.execute_script("return sounds[0].currentTime") > 5.1)
    page.find_element(By.CSS_SELECTOR, ".switch").click()
    wait_for(lambda: playing(page) == [1])
    first, second = page.execute_script("return [sounds[0].currentTime, sounds[1].currentTime]")
    assert first - SEEK_ERROR <= second < first + 2
    buttons = page.find_elements(By.CSS_SELECTOR, "section .switch")
    pairs = [len(one.find_elements(By.TAG_NAME, "audio")) == 2 for one in page.find_elements(By.TAG_NAME, "section")]
    assert [button.is_displayed() for button in buttons] == pairs


def test_a_click_into_a_picture_plays_from_there(page: webdriver.Chrome):
    page.find_element(By.CSS_SELECTOR, ".sound:nth-child(2) .area").click()  # In its middle.
    wait_for(lambda: playing(page) == [1])
    assert page.execute_script("return sounds[1].currentTime / sounds[1].duration") == pytest.approx(0.5, abs=0.2)
    heads = page.execute_script("return [...document.querySelectorAll('.playhead')].map(h => h.style.visibility)")
    assert heads[:3] == ["visible", "", "visible"] or heads[:3] == ["visible", "hidden", "visible"]


def test_sounds_have_the_length_of_their_pictures(page: webdriver.Chrome):
    script = """return [...document.querySelectorAll('section')].flatMap(section =>
        [...section.querySelectorAll('audio')].map(audio => audio.duration - section.dataset.seconds))"""
    assert page.execute_script(script) == pytest.approx([0.0] * len(page.find_elements(By.TAG_NAME, "audio")), abs=0.1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_both_colour_schemes(page: webdriver.Chrome, scheme: str):
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    try:
        assert page.execute_script("return document.documentElement.scrollWidth") == PHONE["width"]
        players = page.find_elements(By.CSS_SELECTOR, "section:first-of-type audio")
        assert players[0].location["y"] < players[1].location["y"]  # One below the other.
        script = "return [getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
        text, background = (sum(map(int, colour[4:-1].split(", "))) for colour in page.execute_script(script))
        assert (text > background + 500) == (scheme == "dark") and abs(text - background) > 500
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
