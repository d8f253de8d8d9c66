"""``ddbench push`` and ``pull`` against a stand-in of the hub on this machine; the token is never told."""

from __future__ import annotations

import errno
import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import PATIENCE, Outcome, listing
from hub_server import TOKEN, Hub, serving
from made_synsets import KINDS, write_run, write_view_labels

from ddbench.runtime.errors import UserError
from ddbench.runtime.hub_library import library, told
from ddbench.synset import FILE

constants = pytest.importorskip("huggingface_hub.constants")
pytest.importorskip("pyarrow")


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as made:
        yield made


def point_to(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """What HF_ENDPOINT does before the library is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def command(hub: Hub, ddb: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """``command("push", ..., token="...")``: a command that knows this hub only; what it prints never has the token."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_OIDC_RESOURCE", raising=False)
    point_to(monkeypatch, hub.address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))

    def call(*argv: object, token: str = TOKEN) -> Outcome:
        monkeypatch.setenv("HF_TOKEN", token)
        found = ddb(*argv)
        assert TOKEN not in found.out + found.err
        return found

    return call


@pytest.fixture
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library repeats at once what it repeats after up to eight seconds."""
    http = importlib.import_module("huggingface_hub.utils._http")
    monkeypatch.setattr(http, "time", SimpleNamespace(sleep=lambda seconds: None))


def refusal(found: Outcome) -> str:
    """The one line of a refused command."""
    assert found.code == 2, found.err
    lines = [line for line in found.err.splitlines() if line.startswith("ddbench: error: ")]
    assert len(lines) == 1, found.err
    return lines[0]


def test_there_and_back(command: Callable, hub: Hub, random_run: Path, tmp_path: Path):
    found = command("push", random_run, "me/digits", "--private", "--quiet")
    assert found.code == 0, found.err
    assert f"published: {hub.address}/datasets/me/digits" in found.out
    assert hub.private["me/digits"]
    assert {"README.md", "synset.json", "preview.png", "data/train-00000-of-00001.parquet"} < set(
        hub.files["me/digits"]
    )
    found = command("pull", "me/digits", "--out", tmp_path / "back", "--quiet")
    assert found.code == 0, found.err
    assert (tmp_path / "back" / FILE).read_bytes() == (random_run / FILE).read_bytes()
    assert f"me/digits@{hub.commit('me/digits')}" in (tmp_path / "back/config.json").read_text()
    before = listing(tmp_path / "back")
    found = command("pull", "me/digits", "--out", tmp_path / "back", "--quiet")
    assert (found.code, "finished already" in found.out) == (0, True), found.err
    assert listing(tmp_path / "back") == before
    used, asked = tmp_path / "used", len(hub.asked)
    used.mkdir()
    (used / "notes.txt").touch()
    assert "holds a synset already" in refusal(command("pull", "me/others", "--out", tmp_path / "back"))
    assert "holds other files already" in refusal(command("pull", "me/digits", "--out", used))
    assert len(hub.asked) == asked, "it is told before anything is downloaded"
    shutil.rmtree(tmp_path / "cache")
    assert "none that your token may read" in refusal(command("pull", "me/digits", "--out", tmp_path / "b", token=""))


def test_a_new_version_replaces_the_files(command: Callable, hub: Hub, tmp_path: Path):
    run = write_run(tmp_path / "run", replace(KINDS["network input"], dataset="digits"))
    write_view_labels(run)
    assert command("push", run, "me/x", "--quiet").code == 0
    assert "labels/train-00000-of-00001.parquet" in hub.files["me/x"]
    assert not hub.private["me/x"]
    assert command("export", run, "--format", "hub", "--out", "pub").code == 0
    (tmp_path / "pub/README.md").write_text("---\nconfigs: []\n---\nmy own words")
    (tmp_path / "pub/secret.txt").write_text("not for the hub")
    (run / "labels.safetensors").unlink()
    assert command("push", "pub", "me/x", "--quiet").code == 0
    assert b"my own words" in hub.files["me/x"]["README.md"]
    assert "secret.txt" not in hub.files["me/x"]
    assert command("push", run, "me/x", "--quiet").code == 0
    assert not [path for path in hub.files["me/x"] if path.startswith("labels/")]


def test_no_picture_of_another_synset_stays(command: Callable, hub: Hub, random_run: Path, tmp_path: Path):
    assert command("push", random_run, "me/x", "--quiet").code == 0
    assert "preview.png" in hub.files["me/x"]
    run = write_run(tmp_path / "run", KINDS["network input"])
    assert command("push", run / FILE, "me/x", "--quiet").code == 0
    assert "preview.png" not in hub.files["me/x"]


def test_what_is_refused(command: Callable, hub: Hub, random_run: Path, tmp_path: Path):
    assert "OWNER/NAME" in refusal(command("push", random_run, "digits"))
    assert "OWNER/NAME" in refusal(command("pull", "a/b/c", "--out", tmp_path / "a"))
    assert "no such synset" in refusal(command("push", tmp_path / "nowhere", "me/x"))
    assert not hub.asked
    assert "hf auth login" in refusal(command("push", random_run, "me/x", token="hf_wrong"))
    assert "hf auth login" in refusal(command("push", random_run, "me/x", token=""))
    hub.files["me/other"] = {"README.md": b"words", "train.csv": b"1,2"}
    hub.private["me/other"] = False
    assert "no synset of ddbench is there already" in refusal(command("push", random_run, "me/other"))
    assert set(hub.files["me/other"]) == {"README.md", "train.csv"}
    assert "no synset of ddbench" in refusal(command("pull", "me/other", "--out", tmp_path / "a"))
    assert "no such dataset" in refusal(command("pull", "me/nowhere", "--out", tmp_path / "a"))
    assert not (tmp_path / "a").exists()


def test_what_is_not_whole_is_not_sent(command: Callable, hub: Hub, tmp_path: Path):
    run = write_run(tmp_path / "run", KINDS["network input"])
    write_view_labels(run)
    for part, message in (("data", "no data/train"), ("labels", "no labels/train"), ("README.md", "no README.md")):
        folder = tmp_path / f"without {part}"
        assert command("export", run, "--format", "hub", "--out", folder).code == 0
        (folder / part).rename(tmp_path / part)
        assert message in refusal(command("push", folder, "me/x"))
    assert not hub.asked


def test_no_way_to_the_hub(command: Callable, random_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert "no way to the hub" in refusal(command("push", random_run, "me/x", token=f"{TOKEN}\n é"))
    point_to(monkeypatch, "http://127.0.0.1:9")
    assert "no way to the hub" in refusal(command("push", random_run, "me/x"))
    told = refusal(command("pull", "me/x", "--out", tmp_path / "a"))
    assert "no way to the hub" in told
    assert told.rstrip().endswith("what is in the cache is taken with HF_HUB_OFFLINE=1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "offline" in refusal(command("push", random_run, "me/x"))


BAD_DAYS = [
    (401, b"", "a token that may {} there is needed"),
    (403, b"", "a token that may {} there is needed"),
    (429, b"", "takes no more requests for now (429); wait some minutes"),
    (500, b"", "the hub is in trouble (500)"),
    (200, b"<html>log in", "what answers is no hub (not JSON"),
]


@pytest.mark.parametrize(("code", "body", "words"), BAD_DAYS)
@pytest.mark.usefixtures("no_waits")
def test_a_bad_day(code: int, body: bytes, words: str, command: Callable, hub: Hub, random_run: Path, tmp_path: Path):
    """What the hub answers is told, not what the library makes of it, and the same command goes on."""
    for request in ("POST /api/repos/create", "POST .*/preupload/", "POST .*/commit/"):
        hub.broken = {request: (code, body)}
        assert words.format("write") in refusal(command("push", random_run, "me/x", "--quiet")), request
    hub.broken = {}
    assert command("push", random_run, "me/x", "--quiet").code == 0
    for request in ("GET /api/datasets/me/x", "GET .*/resolve/"):
        hub.broken = {request: (code, body)}
        told = refusal(command("pull", "me/x", "--out", tmp_path / "back", "--quiet"))
        assert (words.format("read") if "api" in request or code > 200 else "no way to the hub") in told, request
        assert not (tmp_path / "back").exists()
    hub.broken = {}
    assert command("pull", "me/x", "--out", tmp_path / "back", "--quiet").code == 0


@pytest.mark.usefixtures("no_waits")
def test_an_older_version_is_not_taken_for_the_newest(command: Callable, hub: Hub, random_run: Path, tmp_path: Path):
    """The library has it, and gives it without a word where the hub does not answer."""
    assert command("push", random_run, "me/x", "--quiet").code == 0
    assert command("pull", "me/x", "--out", tmp_path / "a", "--quiet").code == 0
    kept = hub.commit("me/x")
    hub.files["me/x"]["README.md"] += b"changed"
    hub.broken = {"GET /api/": (500, b"")}
    assert "the hub is in trouble" in refusal(command("pull", "me/x", "--out", tmp_path / "b", "--quiet"))
    assert not (tmp_path / "b").exists()
    assert command("pull", "me/x", "--revision", kept, "--out", tmp_path / "b", "--quiet").code == 0


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_does_not_wait_for_what_the_library_downloads(
    stop: signal.Signals, command: Callable, hub: Hub, random_run: Path, tmp_path: Path
):
    """Its threads end with what they load, and Python with its threads: minutes."""
    assert command("push", random_run, "me/x", "--quiet").code == 0
    hub.silent = "GET .*/resolve/.*parquet"
    argv = [sys.executable, "-m", "ddbench", "pull", "me/x", "--out", tmp_path / "back", "--quiet"]
    places = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DOWNLOAD_TIMEOUT": "600"}
    with subprocess.Popen(argv, env={**os.environ, **places}, stderr=subprocess.PIPE, text=True) as process:
        assert hub.held.wait(PATIENCE)
        process.send_signal(stop)
        ended = threading.Timer(20, process.kill)
        ended.start()
        _, said = process.communicate()
        ended.cancel()
    assert process.returncode == 128 + stop
    assert said.count("\n") == 1, said
    assert not (tmp_path / "back").exists()
    hub.released.set()
    assert command("pull", "me/x", "--out", tmp_path / "back", "--quiet").code == 0


def test_a_download_that_is_damaged(command: Callable, hub: Hub, random_run: Path, tmp_path: Path):
    """The library does not download it again until what the error names is gone."""
    assert command("push", random_run, "me/x", "--quiet").code == 0
    name = "data/train-00000-of-00001.parquet"
    whole = hub.files["me/x"][name]
    hub.broken = {f"GET .*/resolve/.*/{name}": (200, whole[::-1])}
    told = refusal(command("pull", "me/x", "--out", tmp_path / "back", "--quiet"))
    hub.broken = {}
    assert told == refusal(command("pull", "me/x", "--out", tmp_path / "back", "--quiet"))
    found = re.search("; remove (.*) and get it again$", told)
    assert found is not None, told
    Path(found[1]).unlink()
    assert command("pull", "me/x", "--out", tmp_path / "back", "--quiet").code == 0


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "cache/blob"),
        RuntimeError("Data processing error: No space left on device (os error 28)"),
    ],
)
def test_the_disk_of_the_cache_is_full(error: Exception):
    hub = library("pull needs")
    with pytest.raises(UserError, match=r"^cannot write .*: the disk is full"), told(hub, "me/x", quiet=False):
        raise error


def test_without_the_library_one_line(random_run: Path, refused: Callable, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused(["push", random_run, "me/x"], "huggingface_hub", 'pip install ".[hub]"')


def test_errors_are_cleared_of_tokens():
    from ddbench.runtime.hub_library import clear

    class Library:
        @staticmethod
        def get_token() -> str:
            return "a-token-of-another-form"

    text = "Illegal header value b'Bearer abc def', hf_0123, a-token-of-another-form"
    told = clear(Library, ValueError(text))
    for secret in ("abc", "hf_0123", "another-form"):
        assert secret not in told
