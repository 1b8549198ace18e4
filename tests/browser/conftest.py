"""One JupyterLab for all of the browser's tests, and a page of Chromium for each."""

import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
from lab_page import CHROMIUM, OPTIONS, STEP, free_port, furnish, missing, start_server

HERE = Path(__file__).parent
STATE = """() => [document.activeElement.outerHTML.slice(0, 300),
    ...[...document.querySelectorAll(".mk-status")].map((e) => e.innerText)].join("\\n")"""


def pytest_collection_modifyitems(items):
    """A real browser on a busy machine loses a key now and then: it gets one more try, and the
    summary counts it as `rerun`. What is broken fails twice."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Beside a failure stands what had the focus, and what the widgets said."""
    report = yield
    if report.failed and "page" in item.funcargs:
        with suppress(Exception):  # a page that is gone says nothing
            state = item.funcargs["page"].evaluate(STATE)
            report.sections.append(("focus and status in the page", state))
    return report


@pytest.fixture(scope="session")
def npm():
    """The packages of package.json; fetched once, by npm."""
    if not shutil.which("npm"):
        pytest.skip("npm is not installed")
    modules = HERE / "node_modules"
    if not (modules / "onnxruntime-web").is_dir() or not (modules / "axe-core").is_dir():
        run = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--silent"]
        subprocess.run(run, cwd=HERE, check=True, timeout=600)
    return modules


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """A JupyterLab of its own, on copies of the notebooks; gives the address of one by name."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if reason := missing():
        pytest.skip(reason)
    home = tmp_path_factory.mktemp("lab")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_DATA_DIR", str(home / "data"))  # where signatures are kept
        furnish(home)
    server = start_server(home, port := free_port())
    # Reset: JupyterLab would open the notebooks of the last visit again, and run one of those.
    yield f"http://127.0.0.1:{port}/lab/tree/{{}}?token=secret&reset".format
    server.terminate()
    server.wait(30)


@pytest.fixture
def page():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=[f"--{option}" for option in OPTIONS]
        )
        page = browser.new_page(
            viewport={"width": 1200, "height": 1000}, accept_downloads=True, has_touch=True
        )
        page.set_default_timeout(STEP)
        yield page
        browser.close()
