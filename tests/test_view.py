"""view.py: the data of a page against the run's files; the page in a real browser."""

import base64
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

import view
from config import parse, to_json
from formats.sample import DataError
from run.rollouts import NAME, read_steps
from tests.runs import REPO, rows_of, small
from train import run_stage

HOSTILE = "</script><img src=x onerror=window.hacked=1>"


def data_of(page: Path) -> dict:
    """What a page's script unpacks."""
    packed = re.search(r'id="data">([^<]*)</script>', page.read_text())[1]
    return json.loads(gzip.decompress(base64.b64decode(packed)))


@pytest.fixture(scope="module")
def run(tmp_path_factory, shared_folder) -> Path:
    """The folder of a run of 4 steps, replay from the second on, with its page."""
    out = tmp_path_factory.mktemp("view") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(shared_folder)
        flags = ["--replay_min=8", "--steps=4", "--eval_every=2", "--hint_teacher=0.3"]
        run_stage(parse(small(out, *flags)))
    return out


# ------------------------------------------------------------------ data
def test_a_run_ends_with_its_page_and_every_number_is_the_logs(run):
    data = data_of(run / "run.html")
    steps, evaluations = rows_of(run)
    (shown,) = data["runs"]
    assert shown["steps"]["reward"] == pytest.approx([s["reward"] for s in steps], rel=1e-4)
    assert shown["steps"]["generated"] == [s["generated"] for s in steps]
    assert shown["evaluations"]["eval_accuracy"] == pytest.approx(
        [e["eval_accuracy"] for e in evaluations], rel=1e-4
    )
    seconds = np.cumsum([s["time_cpu"] for s in steps])
    assert shown["evaluations"]["cpu_seconds"] == pytest.approx([0, *seconds[1::2]], abs=0.1)
    assert shown["result"].endswith("after 4 steps and 32 completions")
    assert shown["machine"]["torch"]

    flags = {flag["name"]: flag for group in shown["flags"] for flag in group["flags"]}
    assert (flags["steps"]["value"], flags["steps"]["source"]) == ("4", "given")
    assert flags["clip"]["source"] == "preset"
    assert flags["tas_lambda"]["source"] == "default"


def test_every_completion_is_on_the_page(run):
    rollouts = data_of(run / "run.html")["rollouts"]
    shown = rollouts["completions"]
    completions = [c for step in read_steps(run / NAME) for c in step.completions]
    assert len(shown["step"]) == len(completions)
    for i, c in enumerate(completions):
        tokens = [rollouts["vocabulary"][token] for token in shown["tokens"][i]]
        assert tokens == c["tokens"]
        assert rollouts["prompts"][shown["prompt"][i]]["id"] == c["id"]
        assert shown["advantage"][i] == c["advantage"]
        if c["logps_now"] is None:
            assert shown["loss"][i] is None
            continue

        # PPO's clip written out
        ratio = np.exp(np.array(c["logps_now"]) - c["logps"])
        a = c["advantage"] * np.array(c["weights"]) + c["hint_term"]
        loss = -np.minimum(ratio * a, np.clip(ratio, 0.8, 1.2) * a).mean()
        assert shown["loss"][i] == pytest.approx(loss, abs=2e-3)
        assert shown["entropy"][i] == [round(100 * e) for e in c["entropy"]]


def test_the_buffer_on_the_page_is_that_of_each_step(run):
    buffer = data_of(run / "run.html")["rollouts"]["buffer"]
    for step, letters in zip(read_steps(run / NAME), buffer["tiers"], strict=True):
        there = {n: t for n, t in zip(buffer["ids"], letters, strict=True) if t != " "}
        assert there == {name: tier[0] for name, (tier, _, _) in step.buffer.items()}


def test_small_clips_are_inside_and_others_are_links(run, in_shared_folder, monkeypatch):
    """A link is relative to the page, and leads to the file whatever is in its name."""
    inside = data_of(run / "run.html")["rollouts"]["prompts"]
    assert all(p["media"][0][2].startswith("data:video/mp4;base64,") for p in inside)

    monkeypatch.setattr(view, "CLIP_BYTES", 0)
    page = view.write_page([run], run / "linked.html")
    for prompt in data_of(page)["rollouts"]["prompts"]:
        _, path, address = prompt["media"][0]
        assert (run / unquote(address)).samefile(path)


def test_long_runs_show_some_of_their_steps(run, in_shared_folder, monkeypatch):
    monkeypatch.setattr(view, "MOST_TOKENS", 700)
    rollouts = data_of(view.write_page([run], run / "short.html"))["rollouts"]
    assert rollouts["every"] > 1
    shown = sorted(set(rollouts["completions"]["step"]))
    assert shown[-1] == 3
    assert len(shown) < 4


def test_several_runs_are_compared(run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run, other, symlinks=True)
    view.main([str(run), str(other), "--out", str(tmp_path / "both.html")])
    data = data_of(tmp_path / "both.html")
    assert [r["name"] for r in data["runs"]] == ["run", "other"]
    assert data["rollouts"] is None


def test_what_is_no_run_is_refused(tmp_path, run):
    with pytest.raises(DataError, match=r"not the folder of a run \(config\.json: FileNotFound"):
        view.main([str(tmp_path)])
    message = f"it is a checkpoint; pass its run, {re.escape(str(run))}$"
    for checkpoint in (run / "checkpoint", run / "checkpoints" / "000004"):
        with pytest.raises(DataError, match=message):
            view.main([str(checkpoint)])
    shutil.copy(run / "config.json", tmp_path)
    with pytest.raises(DataError, match=r"metrics\.jsonl is missing"):
        view.main([str(tmp_path)])


@pytest.mark.parametrize(
    "content", [b"my notes", b"<!doctype html>\n<html><body>notes</body></html>", b""]
)
def test_another_file_is_not_written_over(tmp_path, run, content):
    out = tmp_path / "notes.html"
    out.write_bytes(content)
    for flags in ([str(run)], [str(run), str(run)]):
        with pytest.raises(DataError, match=r"notes\.html: is there already, and no page of view"):
            view.main([*flags, "--out", str(out)])
    assert out.read_bytes() == content


def test_a_page_of_ours_is_written_again(tmp_path, run):
    out = tmp_path / "page.html"
    view.main([str(run), "--out", str(out)])
    written = out.read_bytes()
    view.main([str(run), str(run), "--out", str(out)])
    assert data_of(out)["rollouts"] is None
    view.main([str(run), "--out", str(out)])
    assert data_of(out)["rollouts"]
    assert len(out.read_bytes()) == len(written)


def test_an_out_that_cannot_be_a_page_is_refused(tmp_path, run):
    with pytest.raises(DataError, match=r": is a folder; pass a file in it to --out, as .*run\.h"):
        view.main([str(run), "--out", str(tmp_path)])
    with pytest.raises(DataError, match=r": there is no folder .*gone; make it, or pass another"):
        view.main([str(run), "--out", str(tmp_path / "gone" / "a.html")])
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match=r"is there already, and no page of view\.py"):
        view.main([str(run), "--out", str(tmp_path / "pipe")])


# ------------------------------------------------------------------ damaged files
@pytest.fixture
def copied(run, tmp_path) -> Path:
    """A copy of the run to be spoilt."""
    shutil.copytree(run, tmp_path / "copied", symlinks=True)
    return tmp_path / "copied"


@pytest.mark.parametrize("content", [b"", b"no gzip", gzip.compress(b"a member", mtime=0)[:12]])
def test_a_run_that_was_killed_in_its_first_step_has_a_page(copied, content):
    (copied / NAME).write_bytes(content)
    (copied / "metrics.jsonl").write_bytes(b"")
    view.main([str(copied)])
    data = data_of(copied / "run.html")
    assert data["runs"][0]["result"] == "no step is done yet"
    assert data["rollouts"] is None


@pytest.mark.parametrize(
    "line",
    [
        '{"loss": 0.5}',
        '{"step": "two", "loss": 0.5, "generated": 8}',
        '{"step": 9, "loss": 0.5, "generated": null}',
        '{"step": 9, "loss": "low", "generated": 8}',
        '{"step": 9, "loss": 0.5, "generated": 8, "time_cpu": "long"}',
        '{"step": 9, "eval_accuracy": [], "generated": 8}',
        "[" * 100_000,
    ],
)
def test_damaged_lines_of_the_log_are_left_out_and_counted(copied, run, line):
    with (copied / "metrics.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.warns(UserWarning, match=r"metrics\.jsonl: 1 lines are damaged"):
        view.main([str(copied)])
    (shown,) = data_of(copied / "run.html")["runs"]
    (expected,) = data_of(run / "run.html")["runs"]
    assert shown["result"] == expected["result"]
    assert shown["steps"] == expected["steps"]


def test_lines_that_lack_a_column_are_shown(copied):
    """A null stands for what is missing; a column of NaN or of too large numbers has no curve."""
    with (copied / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "loss": 0.5, "odd": NaN, "large": 1' + "0" * 400 + "}\n")
        file.write('{"step": 4, "eval_accuracy": null}\n{"step": 4, "eval_accuracy": 0.5}\n')
    view.main([str(copied)])
    (shown,) = data_of(copied / "run.html")["runs"]
    assert shown["evaluations"]["step"] == [0, 2, 4]
    assert shown["result"].endswith("after 5 steps and 0 completions")
    assert shown["steps"]["generated"][-2:] == [32, None]
    assert not {"odd", "large"} & shown["steps"].keys()


@pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000, "", '{"torch": NaN}'])
def test_a_damaged_machine_json_is_left_out(copied, content):
    (copied / "machine.json").write_text(content)
    with pytest.warns(UserWarning, match=r"machine\.json: is damaged; the page is made without"):
        view.main([str(copied)])
    assert data_of(copied / "run.html")["runs"][0]["machine"] == {}


@pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000, "", '{"given": 3}'])
def test_a_damaged_config_is_one_sentence(copied, content):
    (copied / "config.json").write_text(content)
    with pytest.raises(DataError, match=r"not the folder of a run \(config\.json: "):
        view.main([str(copied)])


@pytest.mark.parametrize(
    ("name", "value"), [("clip", "hard"), ("clip", None), ("is_level", []), ("clip_eps", "0.2")]
)
def test_a_config_without_what_the_loss_needs_is_one_sentence(copied, name, value):
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {name: value}))
    with pytest.raises(DataError, match=rf"config\.json: field '{name}' is .*no value of --{name}"):
        view.main([str(copied)])


@pytest.mark.parametrize("text", [b"hello\n", b"[]\n", b'{"step": 1}\n', b"[" * 100_000])
def test_damaged_completions_are_left_out_and_counted(copied, text):
    with (copied / NAME).open("ab") as file:
        file.write(gzip.compress(text))
    with pytest.warns(UserWarning, match=r"rollouts.*are left out: 1$"):
        view.main([str(copied)])
    shown = data_of(copied / "run.html")["rollouts"]["completions"]["step"]
    assert set(shown) == {0, 1, 2, 3}


def test_a_disk_that_cannot_be_written_is_one_sentence(run, tmp_path):
    out = tmp_path / f"{'x' * 300}.html"
    done = subprocess.run(
        [sys.executable, "view.py", str(run), "--out", str(out)],
        cwd=REPO,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {out}: File name too long")
    assert done.stderr.count("\n") == 1


# ------------------------------------------------------------------ in a browser
@pytest.fixture(scope="module")
def browser():
    """A headless Chromium that notes its console and every address that it asks for."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no Chromium with its driver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()


def open_page(browser, page: Path, width: int = 1280) -> None:
    browser.set_window_size(width, 900)
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(page.as_uri())
    for _ in range(100):
        if browser.execute_script("return document.getElementById('page').dataset.ready"):
            return
        time.sleep(0.1)
    raise AssertionError(browser.get_log("browser"))


def addresses(browser) -> list[str]:
    """Everything that was asked for since the page was opened."""
    asked = []
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            asked.append(message["params"]["request"]["url"])
    return asked


def find(browser, selector: str) -> list:
    return browser.find_elements("css selector", selector)


def column(browser, place: int) -> list[str]:
    return [e.text for e in find(browser, f"#completions tbody td:nth-child({place})")]


def test_the_page_works_in_a_browser(browser, run):
    """Curves, sort, filter, colours, clip, buffer and one step; nothing leaves the page."""
    open_page(browser, run / "run.html")
    page = run / "run.html"
    assert len(find(browser, ".chart polyline")) > 10

    # sorted by reward, upward and downward
    heading = find(browser, "#completions th button")[6]
    assert heading.text.startswith("reward")
    heading.click()
    rewards = [float(text) for text in column(browser, 7)]
    assert rewards == sorted(rewards, reverse=True)
    find(browser, "#completions th button")[6].click()
    rewards = [float(text) for text in column(browser, 7)]
    assert rewards == sorted(rewards)

    # filtered
    find(browser, "label[data-filter=right] option")[2].click()
    assert set(column(browser, 6)) == {"wrong"}
    find(browser, "label[data-filter=kind] option")[2].click()
    assert set(column(browser, 2)) <= {"replayed"}
    find(browser, "label[data-filter=kind] option")[0].click()

    # a completion, its clip, and the colours of its tokens
    find(browser, "#completions tbody tr")[0].click()
    assert find(browser, ".card.wrong.chosen")
    (video,) = find(browser, ".media video")
    for _ in range(50):
        if browser.execute_script("return arguments[0].duration > 3", video):
            break
        time.sleep(0.1)
    assert browser.execute_script("return arguments[0].duration", video) == pytest.approx(
        4, abs=0.2
    )

    def colors():
        return [e.value_of_css_property("background-color") for e in find(browser, ".tokens span")]

    before = colors()
    find(browser, "label[data-filter=color] option")[1].click()
    assert colors() != before

    # one step: the advantages from the numbers are the run's
    rows = [row.text.split() for row in find(browser, "#step tbody tr:not(.group)")]
    assert rows
    for *_, recomputed, recorded, _ in rows:
        if recomputed != "-":
            assert float(recomputed) == pytest.approx(float(recorded), abs=2e-3)

    # dark and light
    back = find(browser, "body")[0].value_of_css_property("background-color")
    find(browser, "#theme")[0].click()
    assert find(browser, "body")[0].value_of_css_property("background-color") != back

    assert browser.get_log("browser") == []
    outside = [a for a in addresses(browser) if not a.startswith((page.as_uri(), "data:"))]
    assert outside == []


def with_columns(run: Path, folder: Path, **columns: float) -> Path:
    """A copy of a run whose steps have further columns."""
    shutil.copytree(run, folder, symlinks=True)
    file = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows = [row | columns if "loss" in row else row for row in rows]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def charts(browser, place: str) -> dict[str, list[str]]:
    """Title of each chart -> names of its lines; none where there is one line alone."""
    found = {}
    for figure in find(browser, f"#curves {place} .chart"):
        title = figure.find_element("css selector", "figcaption").text
        found[title] = [e.text for e in figure.find_elements("css selector", ".names > span")]
    return found


def test_a_new_column_has_a_chart(browser, run, tmp_path):
    """A reward stands beside the others, whatever it reaches; any other column stands alone."""
    folder = with_columns(run, tmp_path / "new", reward_brevity=-2.5, my_note=7)
    open_page(browser, view.write_page([folder], folder / "run.html"))
    named = charts(browser, "h2 + .charts")
    names = named["reward of fresh completions"]
    assert names[0] == "reward"
    assert set(names) == {
        "reward",
        *(f"reward_{x}" for x in ("format", "accuracy", "self", "brevity")),
    }
    lines = find(browser, "#curves .chart polyline")
    assert lines
    for line in lines:
        heights = [float(xy.split(",")[1]) for xy in line.get_attribute("points").split()]
        assert all(0 < y < 190 for y in heights)

    others = charts(browser, "h3 + .charts")
    assert find(browser, "#curves h3")[0].text == "other columns"
    assert "my_note" in others
    assert len(others) < 12
    assert not {"step", "stage", "generated", "groups", "reward_brevity", "loss"} & others.keys()


def test_a_new_column_of_several_runs_has_a_chart(browser, run, tmp_path):
    """One of them has not got it."""
    folders = [with_columns(run, tmp_path / name, my_note=7) for name in ("a", "b")]
    open_page(browser, view.write_page([*folders, run], tmp_path / "all.html"))
    assert charts(browser, "h3 + .charts")["my_note"] == ["a", "b"]


@pytest.mark.parametrize("baseline", ["group", "shrunk", "mine"])
def test_an_advantage_is_recomputed_where_its_baseline_is_known(browser, run, tmp_path, baseline):
    """Of fresh completions only with --baseline group; of replayed ones always."""
    folder = tmp_path / "other"
    shutil.copytree(run, folder, symlinks=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"baseline": baseline}))
    open_page(browser, view.write_page([folder], folder / "run.html"))

    recomputed = {"fresh": 0, "replayed": 0}
    slider = find(browser, "#step input")[0]
    for place in range(4):
        browser.execute_script(
            "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))",
            slider,
            place,
        )
        for row in find(browser, "#step tbody tr"):
            if row.get_attribute("class") == "group":
                kind = "fresh" if row.text.startswith("fresh") else "replayed"
                is_unknown = kind == "fresh" and baseline != "group"
                assert (f"baseline {baseline} (docs/method.md)" in row.text) == is_unknown
                assert ("std" in row.text) != is_unknown
            else:
                recomputed[kind] += row.text.split()[-3] != "-"
    assert recomputed["replayed"]
    assert bool(recomputed["fresh"]) == (baseline == "group")
    sentence = find(browser, "#step p")[0].text
    assert (f"--baseline {baseline}" in sentence) == (baseline != "group")


@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_is_wider_than_the_window(browser, run, width):
    open_page(browser, run / "run.html", width)
    page, window = browser.execute_script(
        "return [document.documentElement.scrollWidth, window.innerWidth]"
    )
    assert page <= window


def hostile_run(folder: Path, run: Path) -> Path:
    """A copy of a run in whose every text stands what would run a script."""
    folder.mkdir()
    cfg = parse(["--out", str(folder)])
    cfg.data = HOSTILE
    cfg.given.add("data")
    (folder / "config.json").write_text(to_json(cfg))
    (folder / "machine.json").write_text(json.dumps({"command": HOSTILE, HOSTILE: HOSTILE}))
    shutil.copy(run / "metrics.jsonl", folder)

    lines = []
    for step in read_steps(run / NAME):
        prompts = {}
        for name, prompt in step.prompts.items():
            media = [["video", f"{HOSTILE}.mp4"], ["image", "javascript:window.hacked=1"]]
            texts = dict.fromkeys(("question", "answer", "hint", "problem_type"), HOSTILE)
            prompts[name + HOSTILE] = prompt | texts | {"options": [HOSTILE], "media": media}
        buffer = {name + HOSTILE: state for name, state in step.buffer.items()}
        lines.append(
            {
                "step": step.step,
                "generated": step.generated,
                "prompts": prompts,
                "buffer": buffer,
            }
        )
        for c in step.completions:
            tokens = [HOSTILE] * len(c["tokens"])
            lines.append(c | {"id": c["id"] + HOSTILE, "tokens": tokens})
    text = "".join(json.dumps(line) + "\n" for line in lines if "tokens" in line or "step" in line)
    members = re.split(r'(?=^\{"step": \d+, "generated")', text, flags=re.MULTILINE)
    (folder / NAME).write_bytes(b"".join(gzip.compress(m.encode()) for m in members if m))
    return folder


def test_hostile_texts_are_shown_and_never_run(browser, run, tmp_path, monkeypatch):
    """In completions, questions, ids, file names, a flag, the command and the run's own name."""
    monkeypatch.chdir(tmp_path)
    for name in (f"{HOSTILE}.mp4", "javascript:window.hacked=1"):
        file = Path(name)
        file.parent.mkdir(parents=True, exist_ok=True)  # the name holds a slash
        file.write_bytes(b"no video")
    monkeypatch.setattr(view, "CLIP_BYTES", 0)
    folder = hostile_run(tmp_path / HOSTILE.replace("/", "_"), run)
    page = view.write_page([folder], folder / "run.html")
    open_page(browser, page)
    find(browser, "#completions tbody tr")[0].click()

    shown = find(browser, "body")[0].text
    assert shown.count(HOSTILE) > 10
    assert browser.execute_script("return window.hacked") is None
    assert browser.execute_script("return document.querySelectorAll('img[onerror]').length") == 0
    assert browser.execute_script("return document.scripts.length") == 2
    asked = addresses(browser)
    assert all(address.startswith(("file://", "data:")) for address in asked)
    assert not any(address.rsplit("/", 1)[-1] == "x" for address in asked)


def test_the_page_has_a_policy_that_runs_no_other_script(browser, run):
    open_page(browser, run / "run.html")
    browser.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.hacked = 1';"
        "document.body.append(s)"
    )
    assert browser.execute_script("return window.hacked") is None
    assert "Content Security Policy" in browser.get_log("browser")[0]["message"]


def test_assets_name_no_address():
    """Nothing is fetched from anywhere."""
    for name in ("view.js", "view.css"):
        text = (REPO / "assets" / name).read_text()
        assert set(re.findall(r"https?://[^\s\"']+", text)) <= {"http://www.w3.org/2000/svg"}
