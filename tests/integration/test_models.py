"""`launcher models`: downloads by the real huggingface_hub from a hub on loopback, and what one does with them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher import Launcher
from tests.hostile import HOSTILE
from tests.integration.models import BIG, CONFIG, FILES, Models, before_a_hub, weights
from tests.programs.front import size_of, wait_until


@pytest.fixture
def models(tmp_path: Path) -> Iterator[Models]:
    with before_a_hub(tmp_path) as made:
        yield made


def test_a_model_is_downloaded_found_checked_and_removed(models: Models) -> None:
    """Blackfish 4: add, list, verify, remove."""
    out, error = models.run("add", "org/name")
    assert "org/name" in out
    assert "launcher launch org/name" in out
    assert error == ""  # nothing is drawn where nobody looks at a terminal
    (snapshot,) = (models.own / "models--org--name" / "snapshots").iterdir()
    assert {str(p.relative_to(snapshot)) for p in snapshot.rglob("*")} == {
        n for n in FILES if not n.endswith((".bin", ".pth"))
    }
    assert all((snapshot / name).read_bytes() == FILES[name] for name in os.listdir(snapshot))
    (listed,) = json.loads(models.run("ls", "--json")[0])["models"]
    assert (listed["id"], listed["revision"], listed["refs"]) == ("org/name", snapshot.name, ["main"])
    assert listed["path"] == str(snapshot)
    assert listed["trouble"] is None
    assert "all right" in models.run("verify", "org/name")[0]
    assert json.loads(models.run("add", "org/name", "--json")[0])["transferred"] == 0
    assert "free again" in models.run("rm", "org/name", "--yes")[0]
    assert "No models" in models.run("ls")[0]
    assert list(models.own.glob("*models--*")) == []


def test_on_a_terminal_it_shows_bytes_and_speed(models: Models) -> None:
    screen, terminal = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "launcher", "models", "add", "org/name"],
        env=models.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=terminal,
    )  # fmt: skip
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # how a terminal ends whose program is gone
        while piece := os.read(screen, 1000):
            shown += piece
    os.close(screen)
    assert process.wait(60) == 0
    assert b"3.9 MB of 3.9 MB, " in shown
    assert b"/s" in shown


def test_a_broken_transfer_goes_on_where_it_broke(models: Models) -> None:
    """Blackfish 4: an interrupted download goes on."""
    models.hub.trouble(BIG, cut=[2_500_000])
    assert json.loads(models.run("add", "org/name", "--json")[0])["transferred"] > 4_000_000
    assert models.hub.transferred(BIG) == [0, 2 << 20]


def test_ctrl_c_leaves_what_the_next_run_goes_on_with(models: Models) -> None:
    gate = threading.Event()
    models.hub.trouble(BIG, hold=(3_000_000, gate))
    process = models.start("add", "org/name")
    partial = models.own / "models--org--name" / "blobs"
    wait_until(lambda: any(size_of(p) >= 2 << 20 for p in partial.glob("*.incomplete")))
    process.send_signal(signal.SIGINT)
    assert "Run the same command again, it continues." in process.communicate(timeout=60)[1]
    assert process.returncode == 130
    (unfinished,) = json.loads(models.run("ls", "--json")[0])["models"]
    assert unfinished["trouble"].endswith("launcher models add org/name")
    gate.set()
    models.run("add", "org/name")
    first, second = models.hub.transferred(BIG)
    assert first == 0
    assert second >= 2 << 20
    assert "all right" in models.run("verify")[0]


def test_bytes_with_another_hash_are_fetched_again_and_never_kept(models: Models) -> None:
    models.hub.trouble(BIG, wrong=1)
    models.run("add", "org/name")
    assert models.blob(BIG).read_bytes() == FILES[BIG]
    models.run("rm", "org/name", "--yes")
    models.hub.trouble(BIG, wrong=99)
    said = models.refused("add", "org/name")
    assert said.startswith(f'Model "org/name": {BIG} came with other bytes than the hub announces, 3 times.')
    assert list(models.own.glob("models--*/snapshots/*")) == []


def test_a_server_without_ranges_sends_the_file_anew(models: Models) -> None:
    models.hub.trouble(BIG, cut=[2_500_000], whole=True)
    models.run("add", "org/name")
    assert models.blob(BIG).read_bytes() == FILES[BIG]


def test_a_busy_hub_is_asked_again(models: Models) -> None:
    models.hub.listings = [503, 429, 200]
    models.hub.trouble(BIG, status=[429, 503])
    models.run("add", "org/name")
    models.hub.listings = [503] * 4
    said = models.refused("add", "org/name")
    assert (
        said == f"{models.hub.endpoint} has trouble (status 503). Run the same command again, it continues."
    )


def test_a_gated_model_names_the_page_where_its_licence_is(models: Models) -> None:
    models.hub.add("org/gated", FILES, gated=True)
    page = f"{models.hub.endpoint}/org/gated"
    said = models.refused("add", "org/gated")
    assert said == (
        f'Model "org/gated" is gated: its licence must be accepted at {page}. '
        "Accept it there, then log in here with: hf auth login"
    )
    token = models.login()
    models.hub.tokens = {"hf_secret"}
    assert f"Accept it with the account of the token in {token}" in models.refused("add", "org/gated")
    models.hub.accepted = {"hf_secret"}
    out, error = models.run("add", "org/gated")
    assert "hf_secret" not in out + error
    # The CDN is another host: it must never see the token.
    assert not [asked for asked in models.hub.requests if asked.cdn and asked.authorized]


def test_the_token_comes_from_its_private_file_only(models: Models) -> None:
    """Blackfish 14: the hub's token."""
    models.hub.tokens = {"hf_secret"}
    models.hub.add("org/private", FILES, private=True)
    said, error = models.run("add", "org/private", code=4, HF_TOKEN="hf_secret")
    assert "HF_TOKEN is not used" in error
    assert "hf_secret" not in said + error
    token = models.login(mode=0o640)
    assert models.refused("add", "org/name", code=3).startswith(f"{token} can be read by others")
    models.login("hf_unknown")
    assert models.refused("add", "org/name", code=3) == (
        f"{models.hub.endpoint} does not know the token in {token}. Log in again with: hf auth login"
    )
    models.login()
    models.run("add", "org/private")
    models.login("not a token\nat all")
    assert "does not hold a token" in models.refused("add", "org/name", code=3)


def test_unknown_names_and_revisions_are_answered_with_near_ones(models: Models) -> None:
    said = models.refused("add", "org/nam")
    assert said.startswith(f'There is no model "org/nam" on {models.hub.endpoint}. Did you mean org/name?')
    said = models.refused("add", "org/name", "--revision", "v9")
    assert said == 'Model "org/name" has no revision "v9" on the hub. It has: main.'


def test_a_hub_out_of_reach_is_said_in_one_sentence(models: Models) -> None:
    said = models.refused("add", "org/name", HF_ENDPOINT="http://127.0.0.1:9")
    assert said.startswith("http://127.0.0.1:9 cannot be reached from here (")
    assert "login node" in said
    said = models.refused("add", "org/name", HF_HUB_OFFLINE="1")
    assert said == "HF_HUB_OFFLINE is set, so the hub is not asked. Unset it for this command."


def test_what_the_site_does_not_allow_is_refused_before_anything(models: Models) -> None:
    models.settle(allow={"downloads": False})
    assert models.refused("add", "org/name").startswith(
        f"Downloads are switched off here ({models.root}/site.yml"
    )
    models.settle(allow={"models": "catalog"}, catalog={"nice": {"id": "org/name"}})
    assert models.refused("add", "org/other").startswith('Model "org/other" is not offered here.')
    models.run("add", "nice")
    assert models.hub.requests
    said = models.refused("add", "org/name", "--to", "/tmp", code=2)
    assert said == (
        "/tmp is not a folder of models, so nobody would find the model there. "
        f"Give one of: {models.shared}, {models.own}."
    )


def test_too_little_room_is_said_before_the_transfer(models: Models) -> None:
    lfs = {"sha256": "0" * 64, "size": 45 * 2**30, "pointerSize": 1}
    models.hub.extra = [
        {
            "rfilename": f"more-{n}.safetensors",
            "size": 1,
            "blobId": "0" * 40,
            "lfs": lfs | {"sha256": f"{n:064}"},
        }
        for n in range(1000)
    ]
    said = models.refused("add", "org/name", code=8)
    assert "and 43.9 TB are still to come. Free some space" in said
    lfs["size"] = 10**12
    models.hub.extra = [{"rfilename": "more.safetensors", "size": 1, "blobId": "0" * 40, "lfs": lfs}]
    said = models.refused("add", "org/name")
    assert (
        "more.safetensors has 931 GB, more than the hub sends in one piece. Download it with: hf download"
        in said
    )
    assert not [asked for asked in models.hub.requests if asked.cdn]


@pytest.mark.parametrize(
    "name", ["../evil.json", "/etc/evil.json", "a/../../evil.json", "a\\b.json", "x\n.json", "."]
)
def test_a_hostile_repository_writes_nothing_outside(models: Models, name: str) -> None:
    models.hub.extra = [{"rfilename": name, "size": 2, "blobId": "0" * 40}]
    assert "does not describe" in models.refused("add", "org/name")
    assert list(models.root.rglob("*evil*")) == []


def test_a_hash_that_is_a_path_is_refused(models: Models) -> None:
    models.hub.extra = [{"rfilename": "a.json", "size": 2, "blobId": "../../../evil"}]
    assert "has no hash" in models.refused("add", "org/name")
    assert list(models.root.rglob("*evil*")) == []


def test_hostile_names_never_reach_the_hub(models: Models) -> None:
    from launcher.errors import RequestError
    from launcher.models.hub.download import add
    from launcher.settings.layers import load

    class Silent:
        def notice(self, text: str) -> None: ...
        def progress(self, done: int, total: int) -> None: ...

    settings = load(models.env)
    for text in HOSTILE:
        for model, revision, to in (
            (text, None, None),
            ("org/name", text, None),
            ("org/name", None, text),
        ):
            with pytest.raises(RequestError):
                add(model, settings, Silent(), revision=revision, to=to)
    assert models.hub.requests == []


def test_pickles_and_foreign_formats_are_refused_by_name(models: Models) -> None:
    models.hub.add("org/pickle", {"config.json": CONFIG, "pytorch_model.bin": b"x"})
    models.hub.add("org/gguf", {"name-Q4_K_M.gguf": b"x"})
    models.hub.add("org/data", {"README.md": b"x"})
    assert "only pickle weights (pytorch_model.bin)" in models.refused("add", "org/pickle")
    assert "only GGUF weights (name-Q4_K_M.gguf), which are made for llama.cpp" in models.refused(
        "add", "org/gguf"
    )
    assert "has no weights (*.safetensors) on the hub" in models.refused("add", "org/data")
    models.settle(allow={"pickle_weights": True})
    models.run("add", "org/pickle")


def test_revisions_stand_beside_each_other_and_share_what_is_equal(models: Models) -> None:
    """Blackfish 5: a branch, a tag and a commit."""
    models.run("add", "org/name")
    models.hub.add("org/name", {**FILES, "config.json": CONFIG + b"\n"}, revision="release/v2")
    out = json.loads(models.run("add", "org/name", "--revision", "release/v2", "--json")[0])
    assert out["transferred"] == len(CONFIG) + 1
    assert "is not here at revision" in models.refused("rm", "org/name", "--revision", "v3")
    models.run("rm", "org/name", "--revision", "release/v2", "--yes")
    (left,) = json.loads(models.run("ls", "--json")[0])["models"]
    assert left["refs"] == ["main"]
    assert "all right" in models.run("verify", "org/name")[0]
    assert models.blob("config.json").read_bytes() == CONFIG


def test_a_model_in_use_is_not_removed(models: Models, launcher: Launcher) -> None:
    models.run("add", "org/name")
    places = {"sessions": str(models.root / "sessions"), "cache": str(models.root / "cache")}
    models.settle(places=places)
    session = launcher.submit(launcher.plan("simulated"))
    try:
        (snapshot,) = (models.own / "models--org--name" / "snapshots").iterdir()
        plan = json.loads(session.paths.plan.read_text())
        plan["model"]["snapshot"] = str(snapshot)
        session.paths.plan.write_text(json.dumps(plan))
        said = models.refused("rm", "org/name", code=6)
        assert said.startswith(f'Model "org/name" is used by session {session.id}')
    finally:
        session.stop()
    models.run("rm", "org/name", "--yes")


def test_what_somebody_else_made_is_not_removed(models: Models) -> None:
    plain = models.shared / "org" / "name"
    plain.mkdir(parents=True)
    (plain / "config.json").write_bytes(CONFIG)
    said = models.refused("rm", "org/name", code=2)
    assert said.startswith(f"{plain} was not made by `launcher models add`")
    assert "Did you mean org/name?" in models.refused("rm", "org/namee")


def test_facts_of_a_model_that_is_not_here_come_by_ranges(models: Models) -> None:
    models.hub.add("org/large", {**FILES, "model-00001-of-00002.safetensors": weights(30_000_000, 3)})
    code = (
        "from launcher.models.described import described; from launcher.settings.layers import load;"
        "_, f = described('org/large', load()); print(f.architecture, f.stored_bytes, f.counted)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=models.env, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["LlamaForCausalLM", str(34_000_000), "True"]
    assert not (models.own / "models--org--large").exists()
