"""The book, built once for all tests, and a headless Chromium that reads it from disk, as a reader without a server."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="package")
def built(tmp_path_factory):
    """As `make book` does it: the English pages, and the Chinese ones in a folder beside them."""
    out = tmp_path_factory.mktemp("book")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "book"]
    builds = [
        [*command, "-d", out / "trees", ".", out / "html"],
        [*command, "-d", out / "trees_zh_CN", "-D", "language=zh_CN", ".", out / "html" / "zh_CN"],
    ]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(build, cwd=ROOT, **pipes) for build in builds]
    complaints = [process.communicate()[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], "\n".join(complaints)
    return out / "html"


@pytest.fixture(scope="package")
def browser(open_chromium):
    driver = open_chromium("window-size=1200,1000")
    yield driver
    driver.quit()
