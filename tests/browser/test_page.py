"""The editor in a web page: in a real browser, against PyTorch, by keyboard, in both themes."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lab_page import ROOT
from PIL import Image
from static_server import serving

from minikontext import flow, images, rope, sampler, tokens
from minikontext.course import verdict
from minikontext.editing.contexts import PictureWarning
from minikontext.errors import ConfigError, OutputError
from minikontext.images.change import LITTLE, VISIBLE, told_change
from minikontext.page.build import STATIC
from minikontext.pipeline import KontextPipeline
from minikontext.runtime.files import shipped
from minikontext.text import UnknownWord
from minikontext.toyworld.scene import MAX_SIGN
from minikontext.toyworld.sizes import TRAINED

HERE = Path(__file__).parent
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = os.environ.get("MINIKONTEXT_CHROMIUM") or next(
    filter(None, map(shutil.which, NAMES)), ""
)
OPTIONS = ("no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync",
           "disable-background-networking", "disable-component-update")  # fmt: skip
DONE = "/^(Done|Finished)/.test(document.getElementById('status').textContent)"

pytestmark = [pytest.mark.browser, pytest.mark.weights]


@pytest.fixture(scope="module")
def pipe():
    return KontextPipeline.from_pretrained("toy-max", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def pipe2():
    """Of the second edition: words by their letters, places in shares, many sizes."""
    return KontextPipeline.from_pretrained("toy-any", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def site(npm, pipe, tmp_path_factory):
    """The page at an address of this machine."""
    yield from served(npm, pipe, tmp_path_factory)


@pytest.fixture(scope="module")
def site2(npm, pipe2, tmp_path_factory):
    yield from served(npm, pipe2, tmp_path_factory)


def served(npm, pipe, tmp_path_factory):
    """(folder, address) of a page, as any static server would give it."""
    pytest.importorskip("onnx", reason="onnx is not installed")
    from minikontext.page.build import build

    folder = build(pipe, tmp_path_factory.mktemp("page"), npm / "onnxruntime-web" / "dist")

    with serving(folder) as address:
        yield folder, address


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    with sync_api.sync_playwright() as play:
        one = play.chromium.launch(
            executable_path=CHROMIUM, args=[f"--{option}" for option in OPTIONS]
        )
        yield one
        one.close()


@pytest.fixture
def page(browser, site):
    """The page, loaded; what it complains of or asks of others fails the test."""
    yield from loaded(browser, site)


@pytest.fixture
def page2(browser, site2):
    yield from loaded(browser, site2)


def loaded(browser, site):
    context = browser.new_context(viewport={"width": 800, "height": 1000})
    context.set_default_timeout(240_000)
    tab, troubles = context.new_page(), []
    tab.on("pageerror", lambda error: troubles.append(str(error)))
    tab.on("console", lambda m: troubles.append(m.text) if m.type == "error" else None)
    tab.on("request", lambda r: None if r.url.startswith((site[1], "data:", "blob:"))
           else troubles.append(r.url))  # fmt: skip
    tab.goto(site[1])
    tab.wait_for_function("!document.getElementById('run').disabled")
    tab.wait_for_function("window.minikontext.state.context !== null")
    yield tab
    assert troubles == []
    context.close()


def edit(page, prompt=None):
    if prompt is not None:
        page.fill("#prompt", prompt)
    page.wait_for_selector("#run:enabled:not([aria-disabled=true])")
    page.evaluate("document.getElementById('status').textContent = ''")
    page.focus("#prompt")
    page.keyboard.press("Enter")
    page.wait_for_function(DONE)


def latents(page):
    return np.array(page.evaluate("Array.from(window.minikontext.state.z.data)"), np.float32)


def result(page):
    code = """() => { const c = document.getElementById("after");
        return [c.width, c.height, Array.from(
            c.getContext("2d").getImageData(0, 0, c.width, c.height).data)]; }"""
    width, height, data = page.evaluate(code)
    return np.array(data, np.uint8).reshape(height, width, 4)[..., :3]


def status(page):
    return page.inner_text("#status")


@pytest.mark.parametrize(
    ("sample", "prompt", "seed", "steps"),
    [("demo", "make the hat red", 0, 4), ("frog", 'add a sign "HI"', 4294967295, 2)],
)
def test_the_page_edits_as_python_does(page, pipe, sample, prompt, seed, steps):
    names = [one["label"] for one in page.evaluate("window.minikontext.editor.facts.samples")]
    page.fill("#seed", str(seed))
    page.select_option("#steps", str(steps))
    # At once: the edit waits for the picture that was chosen last.
    page.click(f"#samples button:nth-of-type({names.index(sample) + 1})")
    edit(page, prompt)
    picture = shipped("data", "images", f"{sample}.png")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = pipe(prompt, picture, seed=seed, num_inference_steps=steps, progress=False)
    assert np.abs(latents(page) - out.latents.flatten().numpy()).max() < 1e-3
    difference = np.abs(result(page).astype(int) - np.asarray(out.images[0]).astype(int))
    assert difference.max() <= 2
    change = told_change(Image.open(picture), out.images[0])
    assert re.fullmatch(rf"Done in .* seed {seed}\. {re.escape(change)}", status(page))


def test_it_says_how_much_changed_as_python_does(page):
    """Rounding included: of pixels, of fours of pixels, of a share between two percents."""
    code = """async ([a, b, width, height, levels]) => {
        const { toldChange } = await import("./model.js");
        return toldChange(a, b, width, height, levels); }"""
    rng, told = np.random.default_rng(0), set()
    for width, height in ((64, 64), (32, 80), (64, 64), (96, 64)) * 8:
        before = rng.integers(0, 256, (height, width, 4), np.uint8)
        before[..., 3] = 255
        near = np.clip(before + rng.integers(-90, 91, before.shape), 0, 255)
        share = rng.choice([0, 0.003, 0.02, 0.1, 0.5, 1])
        after = np.where(rng.random((height, width, 1)) < share, near, before).astype(np.uint8)
        after[..., 3] = 255
        told.add(wanted := told_change(*(Image.fromarray(x[..., :3]) for x in (before, after))))
        given = [before.ravel().tolist(), after.ravel().tolist(), width, height]
        levels = {"visible": VISIBLE, "little": LITTLE}
        assert page.evaluate(code, [*given, levels]) == wanted
    assert len(told) > 5
    black, half = np.zeros((64, 64, 4), np.uint8), np.zeros((64, 64, 4), np.uint8)
    half[:8] = 255  # 12.5 %: a tie, of which Python and JavaScript think differently
    wanted = told_change(*(Image.fromarray(x[..., :3]) for x in (black, half)))
    given = [black.ravel().tolist(), half.ravel().tolist(), 64, 64]
    assert page.evaluate(code, [*given, levels]) == wanted


def test_where_nothing_changed_it_is_not_called_done(page):
    """A net that stands still: the result is the picture that went in, as the decoder sees it."""
    page.evaluate("""() => { const { editor, state } = window.minikontext;
        editor.edit = async () => ({ z: state.context.data, dims: state.context.dims }); }""")
    page.evaluate("window.minikontext.state.steps = []")
    edit(page, "remove the tree")
    assert status(page).startswith("Finished in ")
    assert status(page).endswith("Nothing that one could see has changed.")


def test_noise_schedule_and_positions_are_those_of_python(page):
    code = """async ([name, ...given]) => {
        const model = await import("./model.js");
        return Array.from(model[name](...given)); }"""
    for seed in (0, 7, 2**32 - 1):
        noise = torch.randn(1024, generator=torch.Generator().manual_seed(seed))
        assert np.allclose(page.evaluate(code, ["randn", seed, 1024]), noise, atol=2e-5)
    for steps, n, shifted, mu in ((4, 16, False, None), (28, 16, True, None), (8, 64, True, 0.46)):
        times = sampler.schedule(steps, n, shifted=shifted, mu_16=mu)
        facts = {"shifted": shifted, "mu_16": mu}
        assert np.allclose(page.evaluate(code, ["schedule", steps, n, facts]), times, atol=1e-6)
    ids = tokens.position_ids(3, 5, index=2)
    assert page.evaluate(code, ["positionIds", 3, 5, 2]) == ids.tolist()
    turned = rope.rotations(ids, (8, 20, 20), 10_000).flatten()
    found = page.evaluate(code, ["rotations", ids.tolist(), [8, 20, 20], 10_000])
    assert np.allclose(found, turned, atol=1e-6)
    scaled = page.evaluate("""async ([ids, span]) => {
        const { scaledIds } = await import("./model.js");
        return scaledIds(ids, span); }""", [ids.tolist(), tokens.SPAN])
    assert np.allclose(scaled, tokens.scaled_ids(ids))
    z = torch.arange(4 * 6 * 8, dtype=torch.float32).reshape(1, 4, 6, 8)
    packed = tokens.pack(z).flatten().tolist()
    assert page.evaluate(code, ["pack", z.flatten().tolist(), 4, 6, 8]) == packed
    assert page.evaluate(code, ["unpack", packed, 4, 6, 8]) == z.flatten().tolist()
    assert flow.mu_for_tokens(16) == pytest.approx(0.459, abs=1e-3)  # what the line above rests on


def test_words_are_read_as_python_reads_them(page, pipe):
    rng, words = random.Random(0), pipe.text_encoder.words
    odd = ["café", "HELLO", "A", "make", "the cat's", "red-hat", "“Hi”", "'ok'", "don't", "帽子",
           "x" * 30, "!", ",", "…", "ß", "I", "OK!", '"', "'", "naïve", "ÉTÉ", "2",
           "_a", "❤️", "写上HI", "हिन्दी"]  # fmt: skip
    prompts = ["", "MAKE THE HAT RED", "make THE hat red"]
    prompts += [" ".join(rng.choices([*words[3:], *odd], k=rng.randint(1, 26))) for _ in range(300)]
    code = """async (prompts) => {
        const { tokenize } = await import("./model.js"), { facts } = window.minikontext.editor;
        return prompts.map((prompt) => Array.from(tokenize(prompt, facts).ids, Number)); }"""
    found = page.evaluate(code, prompts)
    wanted = pipe.text_encoder.tokenize(prompts).tolist()
    assert [p for p, a, b in zip(prompts, found, wanted, strict=True) if a != b] == []


def test_words_by_their_letters_are_read_as_python_reads_them(page2, pipe2):
    rng, text = random.Random(1), pipe2.text_encoder
    odd = ["yelow", "flowr", "dog", "helicopter", "HI", "don't", "zzzz", "naïve", "帽子", "!"]
    odd += ["".join(rng.choices("aeiorstnl", k=9)) for _ in range(20)]
    typed = [word[:2] + word[3:] for word in text.words if word.isalpha() and len(word) > 4]
    prompts = [" ".join(rng.choices([*text.words[29:], *odd, *typed], k=rng.randint(0, 34)))
               for _ in range(200)]  # fmt: skip
    code = """async (prompts) => {
        const { tokenize } = await import("./model.js"), { facts } = window.minikontext.editor;
        return prompts.map((prompt) => {
            const { ids, unknown } = tokenize(prompt, facts);
            return [Array.from(ids, Number), unknown]; }); }"""
    found = page2.evaluate(code, prompts)
    wanted = [
        [text.tokenize([prompt])[0].tolist(),
         [one.word for one in text.report(prompt) if isinstance(one, UnknownWord)]]
        for prompt in prompts
    ]  # fmt: skip
    assert [p for p, a, b in zip(prompts, found, wanted, strict=True) if a != b] == []
    assert sum(bool(unknown) for _, unknown in wanted) > 20


def test_a_sign_that_is_too_long_is_told_as_python_tells_it(page):
    prompts = ['add a sign "HELLO"', 'add a sign "HI"', "add a sign HELLO WORLD", "make it night",
               'add a sign "hello world" and "OK"', "“ABCDE”", "", "MAKE THE HAT RED"]  # fmt: skip
    code = """async (prompts) => {
        const { longSigns } = await import("./model.js"), { facts } = window.minikontext.editor;
        return prompts.map((prompt) => longSigns(prompt, facts)); }"""
    wanted = [[word for word in verdict._letters(prompt) if len(word) > MAX_SIGN]
              for prompt in prompts]  # fmt: skip
    assert page.evaluate(code, prompts) == wanted and sum(map(bool, wanted)) == 4
    page.fill("#prompt", prompts[0])
    assert page.inner_text("#words").endswith("not “HELLO”.")
    page.fill("#prompt", prompts[1])
    assert page.inner_text("#words") == ""


@pytest.mark.parametrize("size", [None, (128, 128)])
def test_places_in_shares_and_other_sizes_are_those_of_python(page2, pipe2, size, tmp_path):
    picture = Image.open(shipped("data", "images", "demo.png")).convert("RGB").resize((96, 64))
    picture.save(tmp_path / "wide.png")
    page2.set_input_files("#file", tmp_path / "wide.png")
    page2.wait_for_function("window.minikontext.state.context.dims[3] === 12")
    if size:
        page2.select_option("#size", label=f"{size[0]} × {size[1]}")
    page2.select_option("#steps", "2")
    edit(page2, "make the haat yelow")
    width, height = size or (96, 64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = pipe2("make the haat yelow", picture, seed=0, num_inference_steps=2, width=width,
                    height=height, progress=False)  # fmt: skip
    assert out.images[0].size == (width, height)
    assert np.abs(latents(page2) - out.latents.flatten().numpy()).max() < 1e-3
    assert np.abs(result(page2).astype(int) - np.asarray(out.images[0]).astype(int)).max() <= 2
    assert ("%" in status(page2) or "Nothing" in status(page2)) == (size is None)
    # The attention to the input lies on the input's own patches, 6 × 4 of them.
    shown = "[document.getElementById('context').width, document.getElementById('context').height]"
    assert page2.evaluate(shown) == [6 * 32, 4 * 32]


def test_the_size_of_a_picture_is_chosen_as_python_does(page):
    code = """async ([pictures, sizes]) => {
        const { trainedSize } = await import("./model.js");
        return pictures.map(([w, h]) => trainedSize(w, h, sizes)); }"""
    rng = random.Random(2)
    pictures = [(rng.randint(20, 900), rng.randint(20, 900)) for _ in range(300)]
    found = page.evaluate(code, [pictures, [list(size) for size in TRAINED]])
    assert list(map(tuple, found)) == [images.nearest(size, TRAINED) for size in pictures]


def test_a_picture_is_seen_at_the_size_of_its_result_as_python_does(page2):
    code = """async ([pairs, sizes]) => {
        const { beside } = await import("./model.js");
        return pairs.map(([size, target]) => beside(size, target, sizes)); }"""
    rng = random.Random(3)
    pairs = [[(rng.randint(20, 400), rng.randint(20, 400)) for _ in range(2)] for _ in range(300)]
    pairs += [[one, two] for one in TRAINED for two in TRAINED]
    for sizes in (TRAINED, ((64, 64), (80, 48)), images.KONTEXT_SIZES):
        found = page2.evaluate(code, [pairs, [list(size) for size in sizes]])
        assert [*map(tuple, found)] == [images.beside(*pair, sizes) for pair in pairs]
    page2.click("#samples button")
    page2.wait_for_function("window.minikontext.state.context.dims[3] === 8")
    page2.select_option("#steps", "1")
    for size, patches in (("128 × 128", [8, 8]), ("160 × 64", [4, 4]), ("as the picture", [4, 4])):
        page2.select_option("#size", label=size)
        edit(page2, "make it night")
        assert page2.evaluate("window.minikontext.state.steps[0].grid") == patches


def test_by_keyboard_alone(page):
    """Type, Enter, step back in time, choose a patch: nothing needs a mouse."""
    page.fill("#prompt", "make the haat red")
    assert "haat" in page.inner_text("#words")
    edit(page, "make the hat red")
    assert page.inner_text("#words") == ""
    last = page.evaluate("document.getElementById('noisy').toDataURL()")
    page.focus("#t")
    page.keyboard.press("Home")
    page.wait_for_function(f"document.getElementById('noisy').toDataURL() !== {json.dumps(last)}")
    assert "step 1 of 4" in page.inner_text("label[for=t]").replace("\\n", " ")
    before = page.evaluate("document.getElementById('target').toDataURL()")
    page.focus("#target")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.getElementById('target').toDataURL()") != before
    shares = re.findall(r"(\d+) %", page.inner_text("#spoken").split("Most")[0])
    assert len(shares) == 4 and 97 <= sum(map(int, shares)) <= 103
    focused = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(focused) != "none"


def test_a_result_is_edited_further_from_its_latents(page, pipe):
    edit(page, "make the hat red")
    page.click("#again")
    page.wait_for_selector("#before[aria-label='The picture to edit: the result before']")
    assert page.locator("#samples [aria-pressed=true]").count() == 0
    edit(page, "make it night")
    first = pipe("make the hat red", shipped("data", "images", "demo.png"), seed=0,
                 num_inference_steps=4, progress=False)  # fmt: skip
    second = pipe("make it night", first, seed=0, num_inference_steps=4, progress=False)
    assert np.abs(latents(page) - second.latents.flatten().numpy()).max() < 1e-3


def test_of_two_inputs_in_a_row_the_last_counts_whole(page):
    """A sample that is still being encoded does not take the place of the result behind it."""
    edit(page, "make the hat red")
    page.evaluate("""() => { const { editor } = window.minikontext, { encode } = editor;
        editor.encode = async (...given) => {
            await new Promise((resolve) => setTimeout(resolve, 200));
            return encode.apply(editor, given); };
        document.querySelectorAll("#samples button")[1].click(); }""")
    page.wait_for_selector("#before[aria-label='The picture to edit: frog']")
    page.click("#again")
    page.wait_for_selector("#before[aria-label='The picture to edit: the result before']")
    assert page.evaluate("minikontext.state.context === minikontext.state.z")


def test_a_picture_of_ones_own_is_sized_and_said(page, tmp_path):
    Image.new("RGBA", (100, 50), (0, 200, 0, 128)).save(tmp_path / "green.png")
    page.set_input_files("#file", tmp_path / "green.png")
    said = "document.getElementById('status').textContent.includes"
    page.wait_for_function(f"{said}('100×50')")
    (tmp_path / "words.txt").write_text("no picture")
    page.set_input_files("#file", tmp_path / "words.txt")
    page.wait_for_function(f"{said}('cannot be read')")
    edit(page, "make it night")


def test_a_picture_of_another_world_is_told_as_python_tells_it(page, pipe, tmp_path):
    """And it stays told while the edit runs and after it, until there is another picture."""
    values = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    noise = Image.fromarray(values)
    noise.save(tmp_path / "noise.png")
    assert page.inner_text("#stranger") == ""
    page.set_input_files("#file", tmp_path / "noise.png")
    page.wait_for_function("document.getElementById('stranger').textContent !== ''")
    edit(page, "make it night")
    with pytest.warns(PictureWarning) as told:
        pipe("make it night", noise, num_inference_steps=1, progress=False)
    numbers = re.findall(r"[\d.]+ dB|with [\d.]+", str(told[0].message))
    assert len(numbers) == 2
    assert re.findall(r"[\d.]+ dB|with [\d.]+", page.inner_text("#stranger")) == numbers
    page.click("#samples button")
    page.wait_for_function("document.getElementById('stranger').textContent === ''")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [800, 1280])
def test_axe_finds_nothing_serious(page, npm, theme, width):
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=theme)
    edit(page)
    page.evaluate((npm / "axe-core" / "axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")["violations"]
    assert [(v["id"], v["nodes"][0]["html"]) for v in found] == []
    for narrow in (width, 360):  # a phone's
        page.set_viewport_size({"width": narrow, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_the_picture_is_seen_while_the_net_is_on_its_way(browser, site):
    context = browser.new_context()
    context.set_default_timeout(240_000)
    tab, held = context.new_page(), []
    tab.route("**/net.onnx", lambda route: held.append(route))
    tab.goto(site[1])
    told = "document.getElementById('status').textContent"
    tab.wait_for_function(f"/^Loading the net: [1-9]/.test({told})")
    tab.wait_for_function("""() => {
        const before = document.getElementById("before"), { width, height } = before;
        const middle = before.getContext("2d").getImageData(width / 2, height / 2, 1, 1);
        return middle.data[3] === 255; }""")
    whole = sum(path.stat().st_size for path in site[0].glob("*.onnx"))
    assert f" of {whole / 1e6:.1f} MB" in tab.inner_text("#status")
    assert 0 < tab.evaluate("document.getElementById('bar').value") < 0.9
    assert tab.is_disabled("#run")
    held[0].continue_()
    tab.wait_for_function("!document.getElementById('run').disabled")
    tab.click("#run")
    tab.wait_for_function(DONE)
    context.close()


def test_the_button_keeps_the_focus_while_it_works(page):
    page.evaluate("document.getElementById('status').textContent = ''")
    page.focus("#run")
    page.keyboard.press("Enter")
    page.wait_for_selector("#run[aria-disabled=true]")
    assert page.evaluate("document.activeElement.id") == "run"
    page.wait_for_function(DONE)
    assert page.evaluate("document.activeElement.id") == "run"
    assert page.get_attribute("#run", "aria-disabled") == "false"


def test_the_same_file_can_be_chosen_again_after_a_sample(page, tmp_path):
    """Chrome tells of a choice only if the field held something else before."""
    Image.new("RGB", (64, 64)).save(tmp_path / "mine.png")
    for _ in range(2):
        with page.expect_file_chooser() as chooser:
            page.click("#file")
        assert page.input_value("#file") == ""
        chooser.value.set_files(tmp_path / "mine.png")
        page.wait_for_selector("#before[aria-label='The picture to edit: mine.png']")
        page.click("#samples button")
        page.wait_for_selector("#before:not([aria-label$='mine.png'])")


def test_a_number_of_steps_that_the_menu_lacks_is_offered(browser, site):
    context = browser.new_context()
    tab = context.new_page()
    facts = json.loads((site[0] / "editor.json").read_text(encoding="utf-8"))
    tab.route("**/editor.json", lambda route: route.fulfill(json=facts | {"steps": 3}))
    tab.goto(site[1])
    tab.wait_for_selector("#samples button")
    assert tab.input_value("#steps") == "3"
    context.close()


def test_opened_as_a_file_it_says_what_it_needs(browser):
    tab = browser.new_page()
    tab.goto((STATIC / "index.html").as_uri())
    tab.wait_for_function("document.getElementById('status').textContent.includes('http.server')")
    tab.close()


def test_a_sample_that_is_not_there_is_told_and_no_edit_starts_without_a_picture(browser, site):
    context = browser.new_context()
    context.set_default_timeout(240_000)
    tab = context.new_page()
    tab.route("**/demo.png", lambda route: route.fulfill(status=404))
    tab.goto(site[1])
    said = "document.getElementById('status').textContent.includes"
    tab.wait_for_function(f"{said}('Choose a picture')")
    tab.click("#run")
    tab.wait_for_function(f"{said}('there is no picture')")
    tab.click("#samples button >> nth=0")
    tab.wait_for_function(f"{said}('demo” is not to be had')")
    tab.click("#samples button >> nth=1")
    tab.wait_for_selector("#samples button[aria-pressed=true]")
    edit(tab)
    context.close()


def test_a_net_that_is_not_there_is_told(browser, site, tmp_path):
    context = browser.new_context()
    tab = context.new_page()
    tab.route("**/net.onnx", lambda route: route.fulfill(status=404))
    tab.goto(site[1])
    tab.wait_for_function("document.getElementById('status').textContent.includes('net.onnx')")
    assert "cannot start" in tab.inner_text("#status") and tab.is_disabled("#run")
    Image.new("RGB", (64, 64)).save(tmp_path / "sound.png")
    tab.set_input_files("#file", tmp_path / "sound.png")
    tab.wait_for_selector("#before[aria-label='The picture to edit: sound.png']")
    tab.wait_for_function("!document.getElementById('status').textContent.includes('cannot start')")
    assert "net.onnx" in tab.inner_text("#status")  # and not that the picture is no picture
    context.close()


def test_it_is_small_and_needs_nothing_from_elsewhere(site):
    folder, _ = site
    assert sum(path.stat().st_size for path in folder.glob("*.onnx")) <= 25e6
    text = "".join((folder / name).read_text(encoding="utf-8") for name in
                   ("index.html", "app.js", "model.js", "style.css", "editor.json"))  # fmt: skip
    assert "https:" not in text and "http:" not in text


def test_to_build_a_page_says_one_thing(npm, tmp_path):
    pytest.importorskip("onnx", reason="onnx is not installed")
    runtime = npm / "onnxruntime-web" / "dist"
    command = [sys.executable, "-m", "minikontext", "page", tmp_path / "page", "--runtime", runtime]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=1200)
    assert done.stderr == ""
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["device:", "The"]


def test_what_cannot_become_a_page_is_refused(pipe, tmp_path):
    pytest.importorskip("onnx", reason="onnx is not installed")
    from minikontext.page.build import RUNTIME, build

    with pytest.raises(ConfigError, match="npm install onnxruntime-web"):
        build(pipe, tmp_path / "page", tmp_path)
    for name in RUNTIME:
        (tmp_path / name).touch()
    with pytest.raises(OutputError, match="holds no page"):
        build(pipe, tmp_path, tmp_path)
    other = KontextPipeline.from_pretrained("toy-dev", device="cpu")
    with pytest.raises(ConfigError, match="has no guidance"):
        build(other, tmp_path / "page", tmp_path)
    for change, why in (({"isolated": True}, "isolated"), ({"context_layout": "offset"}, "beside")):
        other = KontextPipeline.from_pretrained("toy-max", device="cpu")
        other.defaults = replace(other.defaults, **change)
        with pytest.raises(ConfigError, match=why):
            build(other, tmp_path / "page", tmp_path)
    assert not (tmp_path / "page").exists()


def test_how_long_somebody_waits_is_measured_and_told(site, tmp_path):
    """Whether it is fast enough depends on the machine; that all of it is timed does not."""
    command = [sys.executable, ROOT / "tools" / "waits.py", "--weights", "toy-max",
               "--pixels", "0.1", "--page", site[0], "--output", tmp_path]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert done.returncode in (0, 1) and not done.stderr.count("Traceback"), done.stderr
    found = json.loads(next(tmp_path.rglob("waits.json")).read_text())
    assert [*found["seconds"]] == ["upload shown", "upload edited", "page, first edit",
                                   "page, slowest of 3 further edits"]  # fmt: skip
    assert all(seconds > 0 for seconds, _ in found["seconds"].values())
    late = any(seconds > most for seconds, most in found["seconds"].values())
    assert done.returncode == late
    assert done.stdout.count("| yes |") + done.stdout.count("| no |") == 4
