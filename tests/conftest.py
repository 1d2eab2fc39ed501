"""How the suite runs anywhere: what is set before torch is imported, and which tests a machine cannot run.

A test marked browser, system, gpu or slow is skipped with the reason where its machine lacks something. With
CI=true a browser or system test that did not run is a failure instead: there the machine is prepared, and silence
would be a lie.
"""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Generator
from functools import cache
from importlib.metadata import version

import pytest
from hypothesis import settings


@cache
def cuda_device_count() -> int:
    """Count CUDA devices through the driver: asking torch would import it before its settings stand."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def torch_can_use_a_gpu() -> bool:
    """Tell whether there is a device and a torch that was built for it."""
    return cuda_device_count() > 0 and "+cpu" not in version("torch")


# Child processes (servers, fresh interpreters) inherit all of these. setdefault: a caller's own choice wins.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # small tensors: more threads only get in one another's way
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may need the network
if not torch_can_use_a_gpu():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read by Triton when a kernel is defined

# The suite draws the same examples every time, so that red means "the change did it". For a search with fresh
# examples: pytest --hypothesis-profile=explore
settings.register_profile("steady", deadline=None, derandomize=True, database=None)
settings.register_profile("explore", deadline=None, derandomize=False, max_examples=1000)
settings.load_profile("steady")

MUST_RUN_IN_CI = ("browser", "system")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="also run the tests marked slow")


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() in ("1", "true")


@cache
def namespaces_work() -> bool:
    """Try, rather than ask: containers often have the program and forbid the call."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode == 0


def lacking_program(names: tuple[str, ...]) -> str | None:
    return None if any(map(shutil.which, names)) else f"needs {' or '.join(names)}, which is not installed"


def lacking_for_browser() -> str | None:
    browser = lacking_program(("chromium", "chromium-browser", "google-chrome"))
    return browser or lacking_program(("chromedriver",))


def lacking_for_system(need: str) -> str | None:
    if need == "root":
        return None if hasattr(os, "geteuid") and os.geteuid() == 0 else "needs root"
    if need == "namespaces":
        return None if namespaces_work() else "needs network namespaces, which this machine does not allow"
    return lacking_program((need,))


def lacking(item: pytest.Item) -> str | None:
    """Say in one sentence why this machine cannot run the test; None when it can."""
    if item.get_closest_marker("slow") and not item.config.getoption("--run-slow"):
        return "slow: takes minutes; run it with --run-slow"
    if item.get_closest_marker("gpu") and not torch_can_use_a_gpu():
        return "gpu: needs a CUDA device that torch can use"
    if item.get_closest_marker("browser") and (reason := lacking_for_browser()):
        return f"browser: {reason}"
    for marker in item.iter_markers("system"):
        for need in marker.args:
            if reason := lacking_for_system(need):
                return f"system: {reason}"
    return None


def pytest_runtest_setup(item: pytest.Item) -> None:
    if reason := lacking(item):
        pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure where skipping is not allowed, wherever in the test the skip came from."""
    report = yield
    if (
        report.skipped
        and not hasattr(report, "wasxfail")
        and in_ci()
        and (item.config.getoption("--run-slow") or not item.get_closest_marker("slow"))
        and any(map(item.get_closest_marker, MUST_RUN_IN_CI))
    ):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} must run when CI=true, but was skipped. {reason}"
    return report


@pytest.fixture(scope="session")
def open_chromium():
    """Give a function that starts a headless Chromium: open_chromium(*flags, javascript=True) -> a driver to quit()."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.support.wait import WebDriverWait

    class Chromium(webdriver.Chrome):
        def get(self, url: str) -> None:
            """Load a page, and wait until it is there: get() alone may return while the page before it still stands."""
            super().get(url)
            asked_for = url.split("#")[0].rstrip("/")

            def is_there(_: object) -> bool:
                shown, state = self.execute_script("return [location.href, document.readyState]")
                return shown.split("#")[0].rstrip("/") == asked_for and state == "complete"

            WebDriverWait(self, 30, poll_frequency=0.02).until(is_there, f"{url} did not load in 30 s")

    def start(*flags: str, javascript: bool = True) -> Chromium:
        options = webdriver.ChromeOptions()
        always = ("headless=new", "no-sandbox", "disable-gpu", "disable-background-networking")
        for flag in (*always, "disable-dev-shm-usage", *flags):
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        if not javascript:
            options.add_experimental_option(
                "prefs", {"profile.managed_default_content_settings.javascript": 2}
            )
        return Chromium(options=options, service=Service(shutil.which("chromedriver")))

    return start
