"""The documentation: its code runs, its options exist, its site is whole and asks no other host."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
import warnings
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from accelerate.commands.launch import launch_command_parser
from docs_world import NOT_RUN, ROOT, docs_world, extras, folder_for, not_installed
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import PluginError
from playwright.sync_api import sync_playwright
from torch.distributed.run import get_args_parser

import dataset_scripts
import modeling_hmgrl
from hmgrl_cli.cli import COMMANDS, make_parser
from modeling_hmgrl.configuration_hmgrl import PAPER_SETTINGS, PAPER_TASK_WEIGHTS, HMGRLConfig

PAGES = sorted(
    path.relative_to(ROOT).as_posix() for path in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]
)
UNDOCUMENTED = {
    "GZSBuilder",
    "GZSMetric",
    "PROTOCOL_VERSION",
    "SOURCES",
    "SPLITS",
    "Task",
    "WIKIDIVERSE_PARTITIONS",
}
"""Names of `__all__` without a place in the API: constants, and classes behind functions there."""

LANGUAGES = {"python", "bash", "text"}
_FENCE = re.compile(r"^( *)```(.*?)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)

_spec = importlib.util.spec_from_file_location("extensions", ROOT / "docs" / "extensions.py")
extensions = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(extensions)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    code: str


def blocks(page):
    text = (ROOT / page).read_text()
    return [
        Block(page, text.count("\n", 0, match.start()) + 2, match[2].strip(), match[3])
        for match in _FENCE.finditer(text)
    ]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with docs_world(tmp_path_factory.mktemp("docs")) as world:
        yield world


FIRST_PAGES = ("README.md", "docs/install.md", "docs/tutorial.md")
"""Pages whose code must run in the environment of `make quickstart`."""

WITH_CODE = [page for page in PAGES if any(b.language in ("python", "bash") for b in blocks(page))]


# How the client of the Hub hands bytes to httpx is not ours to change.
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
@pytest.mark.parametrize("page", WITH_CODE)
def test_code_runs(page, world, tmp_path, monkeypatch):
    cwd = folder_for(world, tmp_path / "page")
    monkeypatch.chdir(cwd)
    if page in FIRST_PAGES:
        for module in not_installed():
            monkeypatch.setitem(sys.modules, module, None)
    if page == "docs/protocol.md":  # it trains the runs that another page pushes
        for run in cwd.glob("runs/seed-*"):
            shutil.rmtree(run)
    names = {"__name__": f"page:{page}"}
    found = blocks(page)
    for block, after in zip(found, [*found[1:], None], strict=True):
        if block.language == "python":
            run_python(block, names)
        elif block.language == "bash":
            run_bash(block, after, world, cwd)


def run_python(block, names):
    code = "\n" * (block.line - 1) + block.code
    exec(compile(code, f"{block.page}", "exec"), names)


def run_bash(block, after, world, cwd):
    """Every program must end well, but for one whose complaint is the text that follows."""
    place = f"{block.page}:{block.line}"
    code, printed = world.shell.run(block.code, cwd)
    expected = after.code if after is not None and after.language == "text" else None
    failed = [call for call in world.shell.calls if call[1]]
    for argv, _, error in failed:
        last = error.strip().splitlines()[-1]
        assert expected is not None, f"{place}: {argv}: {error[-1000:]}"
        assert last in expected, f"{place}: {argv}: {error[-1000:]}"
    assert failed or code == 0, f"{place}: {printed[-1000:]}"
    assert "command not found" not in printed, f"{place}: {printed[-1000:]}"


@pytest.mark.parametrize(
    "code",
    [
        "hmgrl train --no-such-option 1",
        "hmgrl predict --model runs/quickstart --input no-such.jsonl",
        "no-such-program",
        "no-such-program && true\ntrue",
        "make no-such-target",
        "pip install -e '.[no-such-extra]'",
        "torchrun --nproc_per_node 2 train.py --no-such-option",
        "accelerate launch --config_file configs/no-such.yaml train.py",
        "python demo/app.py --no-such-option",
        "python no-such.py",
    ],
)
def test_a_fault_of_a_page_is_found(code, world):
    with pytest.raises(AssertionError):
        run_bash(Block("page", 1, "bash", code), None, world, world.base)


def test_the_environment_of_the_first_pages_has_their_programs(world, tmp_path):
    """What a page calls is in the environment that the page has activated before."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for page in ("README.md", "docs/install.md"):
        code = "\n".join(block.code for block in blocks(page) if block.language == "bash")
        lines = code.splitlines()
        active = next(n for n, line in enumerate(lines) if line.startswith("source .venv/bin/"))
        assert lines[active - 1] == "make quickstart"
        called = [
            n for n, line in enumerate(lines) if re.search(r"(^|\| )(hmgrl|accelerate) ", line)
        ]
        assert all(n > active for n in called)
    assert set(scripts) == {"hmgrl"}
    assert {"matplotlib", "onnxruntime", "gradio", "optuna"} <= set(not_installed())


def test_the_runner_of_pages_keeps_every_command(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```bash\nmake quickstart\nsource .venv/bin/activate\n```\n"
        "```python\nx = 1\n```\n```text\nignored\n```\n```python\nprint(x, 'from python')\n```\n"
        "```bash\nhmgrl data | cat\nhmgrl push --repo a/b\npip install x\nfalse\necho never\n```\n"
    )
    folder = tmp_path / "folder"
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / "encoders").mkdir()
    for name, code in {
        "hmgrl": 'echo "ran $*"',
        "activate": f'PATH="{folder}/.venv/bin:$PATH"',
        "python": f'exec "{sys.executable}" "$@"',
    }.items():
        file = folder / ".venv" / "bin" / name
        file.write_text(f"#!/bin/bash\n{code}\n")
        file.chmod(0o755)
    command = [sys.executable, ROOT / "docs" / "run_pages.py", "--folder", folder, page]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.findall(r"^(?:ran|skipped|1|never).*", done.stdout, re.MULTILINE) == [
        "ran train --source sample --epochs 4 --references --output-dir runs/quickstart "
        "--text-encoder encoders/minilm --vision-encoder encoders/vit-s",
        "1 from python",
        "ran data",
        "skipped: hmgrl push --repo a/b",
        "skipped: pip install x",
    ]
    (folder / "encoders").rmdir()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "contains no encoders" in done.stderr


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is(page):
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{page}:{block.line}: got {block.language!r}"
    marks = len(re.findall(r"^ *```", (ROOT / page).read_text(), re.MULTILINE))
    assert marks == 2 * len(blocks(page))


def test_what_is_not_run_is_named_with_its_reason():
    called = set()
    for page in PAGES:
        for block in blocks(page):
            if block.language == "bash":
                called |= set(re.findall(r"^(?:\w+=\S+ )*([a-z-]+)\b", block.code, re.MULTILINE))
    assert set(NOT_RUN) <= called, "a reason for what no page calls"
    assert all(len(reason) > 20 for reason in NOT_RUN.values())


# What pages say of options, settings and extras


def options_known():
    known = {"--help"}
    for parser in (launch_command_parser(), get_args_parser()):
        known |= {option for action in parser._actions for option in action.option_strings}
    waiting = [(make_parser(name), name) for name in COMMANDS]
    while waiting:
        parser, name = waiting.pop()
        for action in parser._actions:
            known |= set(action.option_strings)
            choices = getattr(action, "choices", None)
            if isinstance(choices, dict):
                waiting += [(p, name) for n, p in choices.items() if hasattr(p, "_actions")]
    for script in ("experiments/sweep.py", "demo/app.py", "demo/space.py"):
        known |= set(re.findall(r'"(--[a-z-]+)"', (ROOT / script).read_text()))
    return known


@pytest.mark.parametrize("page", PAGES)
def test_source_files_in_the_text_exist(page):
    prose = _FENCE.sub("", (ROOT / page).read_text())
    named = re.findall(r"`([\w./-]+\.(?:py|yaml|parquet)|[\w/]+/)`", prose)
    home = (ROOT, ROOT / "configs" / "accelerate")
    made = (".cache/", "encoders/", "logs/", "checkpoints/")  # by a run
    missing = [n for n in named if n not in made and not any((at / n).exists() for at in home)]
    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_options_in_the_text_exist(page):
    prose = _FENCE.sub("", (ROOT / page).read_text())
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", " ".join(re.findall(r"`[^`]+`", prose))))
    assert named <= options_known()


def settings_table():
    text = (ROOT / "docs/mathematics.md").read_text()
    section = text.split("## Departures from the paper")[1]
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| `(.+?)` \|", section, re.MULTILINE)
    return {name: (re.findall(r"`(.+?)`", paper), default) for name, paper, default in rows}


def test_table_of_departures_is_that_of_the_code():
    usual = HMGRLConfig()
    paper = {name: [value] for name, value in PAPER_SETTINGS.items()}
    for name in ("weight_unseen", "weight_alignment"):
        paper[name] = list(PAPER_TASK_WEIGHTS.values())
    departing = {
        name: ([str(value) for value in values], str(getattr(usual, name)))
        for name, values in paper.items()
        if values != [getattr(usual, name)]
    }
    assert settings_table() == departing


def test_extras_are_those_of_the_package():
    text = (ROOT / "docs/install.md").read_text()
    named = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert named | {"dev", "quickstart"} == set(extras())


def test_from_install_to_own_labels_is_read_in_five_minutes():
    tutorial = (ROOT / "docs/tutorial.md").read_text().split("## Your own data")[0]
    words = len(((ROOT / "docs/install.md").read_text() + tutorial).split())
    assert words < 5 * 200


# The site

_OPTIONS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
# What a browser fetches by itself; links are followed by readers alone.
_FETCHED = re.compile(
    r"""<(?:script|img|iframe|source|link)\b[^>]*?\b(?:src|href)="?(?:https?:)?//|url\(["']?(?:https?:)?//|@import"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries of others; those of MkDocs end the build
        patch.chdir(ROOT)
        patch.setenv("NO_MKDOCS_2_WARNING", "1")
        build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
    return folder


def test_site_is_whole(site):
    for page in PAGES:
        if page.startswith("docs/"):
            assert (site / page.removeprefix("docs/")).with_suffix(".html").is_file()
    assert (site / "mathematics.html").read_text().count("<math ") > 100
    for page in site.glob("**/*.html"):
        shown = page.read_text()
        assert "arithmatex" not in shown
        assert not re.search(r":(class|func|meth|mod|data|attr):", shown), page
    pipeline = (site / "api/pipeline.html").read_text()
    assert 'id="modeling_hmgrl.pipeline_hmgrl.ZeroShotTypingPipeline.__call__"' in pipeline


def test_everyday_names_have_a_place_in_the_api(site):
    shown = "".join(page.read_text() for page in (site / "api").glob("*.html"))
    missing = {
        name
        for package in (modeling_hmgrl, dataset_scripts)
        for name in package.__all__
        if not re.search(rf'id="{package.__name__}[\w.]*\.{name}"', shown)
    }
    assert missing == UNDOCUMENTED


def test_formula_that_is_invalid_ends_the_build():
    page = SimpleNamespace(file=SimpleNamespace(src_uri="page.md"))
    formula = '<span class="arithmatex">\\({}\\)</span>'
    assert "<msup>" in extensions.on_page_content(formula.format("x^2"), page)
    for wrong in (r"\nosuch{x}", "x^2_"):
        with pytest.raises(PluginError, match=r"page\.md"):
            extensions.on_page_content(formula.format(wrong), page)


def test_site_asks_no_other_host(site):
    files = [file for file in site.glob("**/*") if file.suffix in (".html", ".css")]
    assert len(files) > 20
    for file in files:
        assert not _FETCHED.search(file.read_text()), file


@pytest.fixture
def address(site):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_pages_in_a_browser(address):
    path = shutil.which("chromium")
    if path is None:
        reason = "no chromium on the PATH; Debian: apt-get install chromium"
        if os.environ.get("CI") or os.environ.get("HMGRL_REQUIRE_BROWSER"):
            pytest.fail(reason)
        pytest.skip(reason)
    asked, faults = [], []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=_OPTIONS)
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: message.type == "error" and faults.append(message.text))
        for name in ("index", "tutorial", "mathematics", "results", "api/pipeline"):
            page.goto(f"{address}/{name}.html")
            page.wait_for_selector("h1")
            width = page.evaluate("document.documentElement.scrollWidth")
            assert width <= 390, f"{name} is {width} wide"
        page.goto(f"{address}/mathematics.html")
        box = page.locator(".formula math mfrac").first.bounding_box()
        assert box["height"] > 25  # a fraction stands on two lines where MathML is understood
        page.locator("label[for=__search]").first.click()
        page.locator("input[name=query]").press_sequentially("occlusion")
        page.wait_for_selector(".md-search-result__item a")
        browser.close()
    assert faults == []
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
