"""The report in a real browser, with ten thousand episodes: looked at, clicked through, filtered."""

from __future__ import annotations

import dataclasses
import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from pareto_episodes import episode
from playwright.sync_api import Page, sync_playwright

from affine.report.episodes import BLOCK, pack
from affine.report.gather import gather
from affine.report.page import render
from affine.types import ENVS, StopReason

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
MODELS = ("base", "sft", "ppo")
TASKS = 417
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium to look at the page")


def solved(model: str, id: int) -> bool:
    """base solves every fourth task, sft every second, ppo all but every tenth."""
    return {"base": id % 4 == 0, "sft": id % 2 == 0, "ppo": id % 10 != 0}[model]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    episodes = [
        (model, episode(env, id, float(solved(model, id)), model=model))
        for model in MODELS
        for env in ENVS
        for id in range(TASKS)
    ]
    results = dataclasses.replace(gather(ROOT, 0.8), packed=pack(episodes, MODELS))
    path = tmp_path_factory.mktemp("browser") / "report.html"
    path.write_text(render(results, "0123456789"), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def page(address: str) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(60_000)
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if request.url != address else None)
        page.goto(address)
        page.wait_for_function("document.getElementById('count').textContent !== ''")
        yield page
        assert said == []  # no error, and nothing fetched
        browser.close()


def count(page: Page) -> str:
    return page.locator("#count").inner_text()


def reset(page: Page) -> None:
    for name in ("env", "model", "outcome", "compare"):
        page.select_option(f"#{name}", index=0)
    page.fill("#task", "")


def test_all_episodes_are_there_and_few_of_them_drawn(page: Page) -> None:
    reset(page)
    assert count(page) == f"{len(ENVS) * TASKS:,} tasks, {len(MODELS) * len(ENVS) * TASKS:,} episodes"
    assert 5 < page.locator("#list .row").count() < 60
    assert page.evaluate("document.getElementsByTagName('*').length") < 5000
    page.evaluate("document.getElementById('list').scrollTop = 1e9")
    page.wait_for_function(
        f"[...document.querySelectorAll('#list .row')].some(r => r.textContent.includes('{TASKS - 1}'))"
    )
    assert page.locator("#list .row").count() < 60


def test_filters_keep_what_they_say(page: Page) -> None:
    reset(page)
    page.select_option("#env", label="textcraft")
    assert count(page).startswith(f"{TASKS} tasks")
    page.select_option("#model", label="sft")
    page.select_option("#outcome", label="not solved")
    assert count(page).startswith(f"{sum(not solved('sft', id) for id in range(TASKS))} tasks")
    page.select_option("#outcome", label=str(StopReason.SOLVED))
    assert count(page).startswith(f"{sum(solved('sft', id) for id in range(TASKS))} tasks")
    reset(page)
    page.select_option("#env", label="sat")
    page.select_option("#compare", label="base above ppo")
    wanted = [id for id in range(TASKS) if solved("base", id) and not solved("ppo", id)]
    assert count(page).startswith(f"{len(wanted)} tasks")
    assert page.locator("#list .row .name").first.inner_text() == f"sat {wanted[0]}"
    page.fill("#task", str(wanted[3]))
    assert count(page) == "1 tasks, 3 episodes"


def test_a_click_opens_every_models_episode_side_by_side(page: Page) -> None:
    reset(page)
    page.select_option("#env", label="alfworld")
    page.locator("#list .row", has_text="alfworld 5").first.click()
    page.wait_for_selector("#detail .side")
    assert page.locator("#detail .side h3").all_inner_texts() == list(MODELS)
    ends = page.locator("#detail .side .end").all_inner_texts()
    assert [end.startswith("score 1") for end in ends] == [solved(model, 5) for model in MODELS]
    assert all("reward" in text for text in page.locator("#detail .agent small").all_inner_texts())
    assert page.evaluate("location.hash") == "#episodes/alfworld/0/5/7/0"
    assert page.evaluate("blocks.size") <= 2  # of the many, only those that were read are unpacked
    assert page.evaluate("document.querySelectorAll('[id^=block]').length") == -(-len(ENVS) * TASKS // BLOCK)
    page.locator("#list").focus()
    page.keyboard.press("ArrowDown")
    page.wait_for_function("location.hash === '#episodes/alfworld/0/6/7/0'")


def test_it_looks_like_a_page(page: Page, tmp_path: Path) -> None:
    """By screenshot: the results and the browser of episodes are neither blank nor cut off on the side."""
    for section in ("results", "curves", "graph", "episodes"):
        page.locator(f"#{section}").scroll_into_view_if_needed()
        picture = page.locator(f"#{section}").screenshot(path=tmp_path / f"{section}.png")
        pixels = matplotlib.image.imread(io.BytesIO(picture))[..., :3]
        assert pixels.shape[0] > 100
        assert pixels.shape[1] > 1000
        rows = np.ptp(pixels.reshape(pixels.shape[0], -1), axis=1)
        assert (rows > 0.3).mean() > 0.25, section  # most lines hold something dark on light, or the reverse
        assert len(np.unique((pixels * 15).astype(int).reshape(-1, 3), axis=0)) > 8, section
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
