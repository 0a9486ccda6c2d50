"""A real browser for the pages: Debian's chromium without a window, driven by its own chromedriver."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--hide-scrollbars",
    "--no-first-run",
    "--window-size=1280,900",
)
PROGRAMS = {"chromium": "chromium", "chromedriver": "chromium-driver"}
"""Programs that are needed, each with the Debian package that brings it."""


class Browser:
    """One window, and what its page asked for and complained of.

    Args:
        driver: with the logs ``browser`` and ``performance`` switched on.
    """

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def open(self, page: Path, fragment: str = "") -> None:
        """Load a file anew, also where it is on show already."""
        self.driver.get("about:blank")
        self.driver.get(page.as_uri() + fragment)

    def run(self, script: str, *arguments: Any) -> Any:
        """What the body of a function in JavaScript returns; an element comes as an element."""
        return self.driver.execute_script(script, *arguments)  # type: ignore[no-untyped-call]

    def command(self, name: str, **parameters: Any) -> dict[str, Any]:
        """A command of the Chrome DevTools protocol."""
        return self.driver.execute_cdp_cmd(name, parameters)

    def emulate(self, media: str = "", theme: str = "light", width: int = 1280) -> None:
        """Show pages on paper or on a screen, in a theme, so many CSS pixels wide."""
        self.command(
            "Emulation.setEmulatedMedia", media=media, features=[{"name": "prefers-color-scheme", "value": theme}]
        )
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)

    @contextmanager
    def without_scripts(self) -> Iterator[None]:
        """Pages that are opened inside run no script of their own; ``run`` still does."""
        self.command("Emulation.setScriptExecutionDisabled", value=True)
        try:
            yield
        finally:
            self.command("Emulation.setScriptExecutionDisabled", value=False)

    def complaints(self) -> list[str]:
        """What went to the console since the last call: errors and refusals of the content security policy."""
        return [entry["message"] for entry in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]

    def requested(self) -> list[str]:
        """Addresses that were asked for since the last call, the page itself among them."""
        events = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))  # type: ignore[no-untyped-call]
        return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser that ends with the block.

    Raises:
        FileNotFoundError: a program is missing; the message names the Debian packages.
    """
    places = {program: shutil.which(program) for program in PROGRAMS}
    missing = [program for program, place in places.items() if place is None]
    if missing:
        packages = " ".join(PROGRAMS.values())
        raise FileNotFoundError(
            f"expected chromium and chromedriver on the PATH; missing: {', '.join(missing)}. "
            f"On Debian: apt-get install {packages}"
        )
    options = ChromeOptions()
    options.binary_location = str(places["chromium"])
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=Service(executable_path=str(places["chromedriver"])))
    try:
        driver.set_page_load_timeout(100)
        driver.set_script_timeout(100)
        yield Browser(driver)
    finally:
        driver.quit()
