"""Another cluster over real ssh, without Slurm: its files, its trouble, and how it is set up.

The laptop is one user's, the account there another's; both launchers are the installed one.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import needs
from tests.hostile import HOSTILE
from tests.programs.front import wait_until
from tests.programs.laptop import NAME, Laptop
from tests.programs.terminal import Terminal
from tests.site import Answer, Install
from tests.slurm.people import People

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def laptop(installed: Install, users: People) -> Iterator[Laptop]:
    needs("sshd", "openssh-server")
    with Laptop(users.alice, users.bob, {"LAUNCHER_SITE": os.devnull}) as made:
        yield made


@pytest.fixture(autouse=True)
def _known(laptop: Laptop, installed: Install) -> None:
    laptop.settle(launcher=installed.launcher)


def run(laptop: Laptop, installed: Install, *words: str, stdin: str | None = None, **env: str) -> Answer:
    """`launcher WORDS` on the laptop."""
    done = laptop.run([installed.launcher, *words], stdin=stdin, timeout_s=200, **env)
    return Answer(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def folder(laptop: Laptop) -> Iterator[Path]:
    """A folder of the account's there."""
    made = laptop.account.folder("files-")
    yield made
    shutil.rmtree(made)


def mine(laptop: Laptop, name: str, content: bytes) -> Path:
    """A file on the laptop."""
    path = laptop.home / name
    path.write_bytes(content)
    os.chown(path, laptop.owner.uid, laptop.owner.gid)
    return path


def test_files_go_there_and_come_back(laptop: Laptop, installed: Install, folder: Path) -> None:
    """Blackfish 6: files over ssh."""
    content = os.urandom(3_000_000)
    mine(laptop, "weights.bin", content)
    sent = run(laptop, installed, "files", "put", "weights.bin", f"{NAME}:{folder}", "--json")
    assert sent.code == 0, sent
    assert sent.data["files"] == [{"path": f"{folder}/weights.bin", "size": 3_000_000, "kept": False}]
    assert (folder / "weights.bin").read_bytes() == content
    assert (folder / "weights.bin").stat().st_uid == laptop.account.uid
    listed = run(laptop, installed, "files", "ls", f"{NAME}:{folder}", "--json")
    assert [one["name"] for one in listed.data["files"]] == ["weights.bin"]
    got = run(laptop, installed, "files", "get", f"{NAME}:{folder}/weights.bin", "back.bin")
    assert got.code == 0, got
    assert (laptop.home / "back.bin").read_bytes() == content
    # Nothing is moved twice, nothing is lost unasked.
    again = run(laptop, installed, "files", "put", "weights.bin", f"{NAME}:{folder}")
    assert "is there already, with the same size" in again.text
    mine(laptop, "back.bin", b"other")
    refused = run(laptop, installed, "files", "get", f"{NAME}:{folder}/weights.bin", "back.bin")
    assert refused.code == 8
    assert "is there already. Choose another name, or overwrite it with --force." in refused.error
    forced = run(laptop, installed, "files", "get", f"{NAME}:{folder}/weights.bin", "back.bin", "--force")
    assert forced.code == 0
    assert (laptop.home / "back.bin").read_bytes() == content


def test_a_transfer_goes_on_where_it_was(laptop: Laptop, installed: Install, folder: Path) -> None:
    content = os.urandom(2_000_000)
    there = folder / "long.bin"
    there.write_bytes(content)
    os.chown(there, laptop.account.uid, laptop.account.gid)
    known = there.stat()
    # What a transfer that broke after 1.5 MB leaves; its bytes are told from those that are fetched.
    part = mine(laptop, f".long.bin.{known.st_size}-{known.st_mtime_ns}.part", b"x" * 1_500_000)
    got = run(laptop, installed, "files", "get", f"{NAME}:{there}")
    assert got.code == 0, got
    assert (laptop.home / "long.bin").read_bytes() == b"x" * 1_500_000 + content[1_500_000:]
    assert not part.exists()
    sent = mine(laptop, "up.bin", content)
    known = sent.stat()
    part = folder / f".up.bin.{known.st_size}-{known.st_mtime_ns}.part"
    part.write_bytes(b"y" * 1_000_000)
    os.chown(part, laptop.account.uid, laptop.account.gid)
    assert run(laptop, installed, "files", "put", "up.bin", f"{NAME}:{folder}").code == 0
    assert (folder / "up.bin").read_bytes() == b"y" * 1_000_000 + content[1_000_000:]
    assert not part.exists()


def test_hostile_names_are_names(laptop: Laptop, installed: Install, folder: Path) -> None:
    Path("/tmp/launcher-was-here").unlink(missing_ok=True)
    names = [name for name in HOSTILE if name and "\0" not in name and "/" not in name and len(name) < 200]
    for number, name in enumerate(names):
        (folder / name).write_text(str(number))
    (folder / "in" / "side").mkdir(parents=True)
    (folder / "in" / "side" / "x").write_text("deep")
    (folder / "in" / "side" / "loop").symlink_to("..")
    (folder / "in" / "side" / "y").symlink_to("x")
    for path in (folder / "in", folder / "in" / "side"):
        os.chown(path, laptop.account.uid, laptop.account.gid)
    got = run(laptop, installed, "files", "get", "-r", "--json", f"{NAME}:{folder}", "all")
    assert got.code == 0, got
    for number, name in enumerate(names):
        assert (laptop.home / "all" / name).read_text() == str(number)
    assert {path.name: path.read_text() for path in (laptop.home / "all" / "in" / "side").iterdir()} == {
        "x": "deep",
        "y": "deep",
    }
    shown = run(laptop, installed, "files", "cat", f"{NAME}:{folder}/$(touch x)")
    assert shown.code == 8
    assert "$(touch x): No such file or directory" in shown.error
    some = [str(laptop.home / "all" / name) for name in names[:6]]
    back = run(laptop, installed, "files", "put", *some, f"{NAME}:{folder}/in")
    assert back.code == 0, back
    for number, name in enumerate(names[:6]):
        assert (folder / "in" / name).read_text() == str(number)
    assert not Path("/tmp/launcher-was-here").exists()
    assert run(laptop, installed, "files", "ls", f"{NAME}:{folder}").code == 0


def test_what_may_not_be_read_or_written_is_said(laptop: Laptop, installed: Install) -> None:
    refused = run(laptop, installed, "files", "cat", f"{NAME}:/etc/shadow")
    assert refused.code == 8
    assert "/etc/shadow: Permission denied." in refused.error
    mine(laptop, "a", b"a")
    refused = run(laptop, installed, "files", "put", "a", f"{NAME}:/etc/a")
    assert refused.code == 8
    assert "Permission denied" in refused.error
    assert "names no cluster" in run(laptop, installed, "files", "ls", "/scratch").error


TROUBLES = {
    "no launcher there": (
        {"launcher": "/no/such/launcher"}, 3,
        "There is no launcher /no/such/launcher on far (far). Run: launcher clusters setup far",
    ),
    "no such host": (
        {"ssh": "gone.invalid", "launcher": "launcher"}, 5,
        "gone.invalid is a name that cannot be found. Check the name, ~/.ssh/config",
    ),
    "another user": (
        {"ssh": "stranger@far", "launcher": "launcher"}, 5,
        "stranger@far did not let you in. Check `ssh stranger@far`: the user name",
    ),
    "something else": ({"launcher": "/bin/echo"}, 5, "on far (far) ended without an answer"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "how"),
    # What a command prints there is its own, whatever the program is.
    [
        (name, how)
        for name in TROUBLES
        for how in ("command", "request")
        if (name, how) != ("something else", "command")
    ],
)
def test_each_trouble_has_its_sentence_and_fix(
    laptop: Laptop, installed: Install, name: str, how: str
) -> None:
    cluster, code, said = TROUBLES[name]
    laptop.settle(**cluster)
    words = ["--cluster", NAME, "status"] if how == "command" else ["files", "ls", f"{NAME}:/"]
    done = run(laptop, installed, *words)
    assert done.code == code, done
    assert said in done.error


def test_a_launcher_that_is_too_old_says_so(laptop: Laptop, installed: Install, folder: Path) -> None:
    old = folder / "launcher"
    old.write_text('#!/bin/sh\necho "launcher: Unknown command \\"$1\\". See: launcher --help" >&2\nexit 2\n')
    old.chmod(0o755)
    laptop.settle(launcher=str(old))
    for words in (["--cluster", NAME, "status"], ["files", "ls", f"{NAME}:/"]):
        done = run(laptop, installed, *words)
        assert done.code == 3, done
        assert "too old to be asked over ssh. Run: launcher clusters setup far" in done.error


def test_another_version_there_is_said_once_and_works(laptop: Laptop, installed: Install) -> None:
    words = ["over-ssh", "--version-here", "9.9", "--cluster-here", NAME, "--", "profiles", "--json"]
    done = run(laptop, installed, *words)
    assert done.code == 0
    assert "local" in json.dumps(done.data)
    assert done.error.count("you have 9.9. Run: launcher clusters setup far") == 1


def test_a_shell_that_prints_at_login_disturbs_nothing(laptop: Laptop, installed: Install) -> None:
    start = laptop.account.home / ".bashrc"
    kept = start.read_bytes() if start.exists() else None
    start.write_text("echo 'Welcome to the cluster!'\n")
    try:
        assert run(laptop, installed, "files", "ls", f"{NAME}:/", "--json").code == 0
        done = run(laptop, installed, "status", "--everywhere", "--json")
        assert {one["cluster"]: one["trouble"] for one in done.data["clusters"]} == {"here": None, NAME: None}
    finally:
        start.unlink() if kept is None else start.write_bytes(kept)


def test_names_of_clusters(laptop: Laptop, installed: Install) -> None:
    for name in ("fra", "$(id)", "two words", "naïve ☃"):
        done = run(laptop, installed, "--cluster", name, "status")
        assert (done.code, "There is no cluster" in done.error) == (2, True), done
    assert "Did you mean far?" in run(laptop, installed, "--cluster", "fra", "status").error
    assert run(laptop, installed, "--cluster").code == 2
    assert run(laptop, installed, "--cluster=-oProxyCommand=id", "status").code == 2
    # The variable does the same, and what is about this machine stays here.
    assert run(laptop, installed, "profiles", "--json", LAUNCHER_CLUSTER=NAME).code == 0
    assert run(laptop, installed, "--version", LAUNCHER_CLUSTER="no-such").code == 0
    assert run(laptop, installed, "status", LAUNCHER_CLUSTER="no-such").code == 2


def test_a_reader_that_has_enough_is_no_trouble(laptop: Laptop, installed: Install, folder: Path) -> None:
    """`launcher … | head` says nothing on standard error, and nothing goes on there."""
    (folder / "long.txt").write_text("a line\n" * 1_000_000)
    for command in (f"files cat {NAME}:{folder}/long.txt", f"--cluster {NAME} config show"):
        done = laptop.run(["bash", "-c", f"{installed.launcher} {command} | head -n 1"])
        assert (len(done.stdout.splitlines()), done.stderr) == (1, ""), done
    wait_until(lambda: not laptop.there("over-ssh"))


def test_input_is_left_to_the_script_that_calls(laptop: Laptop, installed: Install) -> None:
    """A `while read` loop around the launcher sees all of its lines."""
    loop = (
        f'while read -r line; do {installed.launcher} --cluster {NAME} status >/dev/null; echo "$line"; done'
    )
    done = laptop.run(["bash", "-c", loop], stdin="one\ntwo\n")
    assert done.stdout == "one\ntwo\n", done


def test_a_changed_host_key_stops_everything(laptop: Laptop, installed: Install) -> None:
    """Another host key than before is never accepted, and the sentence says what to do."""
    known = laptop.folder / "known_hosts"
    before = known.read_text()
    laptop.far.new_host_key()
    done = run(laptop, installed, "--cluster", NAME, "status")
    assert done.code == 5
    assert "far has another host key than before. If its staff announced that: ssh-keygen -R" in done.error
    known.write_text("")
    done = run(laptop, installed, "--cluster", NAME, "status")
    assert "far is a host that your ssh does not know yet. Run ssh far once" in done.error
    laptop.far.new_host_key(known=True)
    assert run(laptop, installed, "--cluster", NAME, "status").code == 0
    assert before != known.read_text()


def test_a_passphrase_is_asked_for_once(laptop: Laptop, installed: Install) -> None:
    """As a code of a second factor would be: on the terminal, at the first command alone."""
    import subprocess

    key = str(laptop.folder / "key")
    laptop.far.drop()
    wait_until(lambda: not laptop.programs())
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "secret words", "-f", key], check=True)
    os.chown(key, laptop.owner.uid, laptop.owner.gid)
    owner = ["setpriv", f"--reuid={laptop.owner.uid}", f"--regid={laptop.owner.gid}", "--clear-groups"]
    variables = [f"{name}={value}" for name, value in laptop.env.items()]
    start = [*owner, "env", "-i", "TERM=xterm", *variables, installed.launcher, "--cluster", NAME, "profiles"]
    try:
        with Terminal(start) as terminal:
            terminal.wait_for("Enter passphrase")
            terminal.press("secret words\r")
            assert terminal.process.wait(60) == 0
        with Terminal(start) as terminal:
            terminal.wait_for("Would start")
            assert "passphrase" not in terminal.text
        assert run(laptop, installed, "--cluster", NAME, "status").code == 0
    finally:
        subprocess.run(["ssh-keygen", "-q", "-p", "-P", "secret words", "-N", "", "-f", key], check=True)
        os.chown(key, laptop.owner.uid, laptop.owner.gid)


def test_setup_installs_this_launcher_and_a_second_time_nothing(laptop: Laptop, installed: Install) -> None:
    """`clusters setup`: nothing is known at first; afterwards a command there works, from the home there."""
    laptop.settle("# mine\nsession:\n  hours: 2   # short\n")
    before = {path.name for path in laptop.account.home.iterdir()}
    words = ["clusters", "setup", NAME, "--path", "~/launcher-try", "--extras", "none", "--json"]
    try:
        done = run(laptop, installed, *words)
        assert done.code == 0, done
        assert (done.data["installed"], done.data["host"]) == (True, NAME)
        assert ["local", "This machine, without a queue"] in done.data["profiles"]
        assert laptop.settings.read_text().startswith("# mine\nsession:\n  hours: 2   # short\n\nclusters:\n")
        plan = run(laptop, installed, "--cluster", NAME, "launch", "simulated", "--dry-run", "--json")
        assert plan.code == 0, plan
        program = laptop.account.home / "launcher-try" / "current" / "bin" / "launcher"
        assert program.exists()
        assert str(program.resolve().parent) in plan.data["script"]
        again = run(laptop, installed, *words)
        assert again.code == 0, again
        assert again.data["installed"] is False
        # Another build there: the present one takes its place, and what sessions run from stays.
        current, release = program.parents[1], program.resolve().parents[1]
        former = release.with_name("0.0.1-0000000000")
        (former / "bin").mkdir(parents=True)
        other = former / "bin" / "launcher"
        other.write_text(
            f"#!/bin/sh\n{release}/bin/launcher \"$@\" | sed 's/{release.name[6:16]}/0000000000/'\n"
        )
        other.chmod(0o755)
        current.unlink()
        current.symlink_to(former)
        upgraded = run(laptop, installed, *words)
        assert upgraded.code == 0, upgraded
        assert "is another build than this one" in upgraded.error
        assert upgraded.data["former"] == [str(former)]
        assert current.resolve() == release
    finally:
        shutil.rmtree(laptop.account.home / "launcher-try", ignore_errors=True)
        for name in {path.name for path in laptop.account.home.glob(".*")} - before - {".local", ".cache"}:
            shutil.rmtree(laptop.account.home / name, ignore_errors=True)


def test_setup_uses_the_launcher_that_is_there(laptop: Laptop, installed: Install) -> None:
    laptop.settle("{}\n")
    laptop.settings.unlink()
    done = run(
        laptop, installed, "clusters", "setup", "della", "--host", NAME, "--launcher", installed.launcher
    )
    assert done.code == 0, done
    assert "Try it:  launcher --cluster della launch simulated --wait" in done.text
    shown = run(laptop, installed, "config", "show", "clusters.della", "--json")
    assert shown.data["clusters.della.launcher"]["value"] == installed.launcher
    assert shown.data["clusters.della.ssh"]["value"] == NAME


def test_setup_says_what_is_in_the_way(laptop: Laptop, installed: Install) -> None:
    laptop.settle("session: {hours: 2}\n")
    for words, code, said in (
        (["--host", "gone.invalid"], 5, "gone.invalid is a name that cannot be found."),
        (["--host", "-oProxyCommand=id"], 2, "needs a value"),
        (["--host", NAME, "--launcher", "/no/such"], 3, "There is no launcher /no/such on x (far)."),
        (["--host", NAME, "--path", "/etc/launcher-try", "--extras", "none"], 8, "Nothing can be written to"),
        (["--host", NAME, "--path", "a b"], 2, '--path cannot be "a b"'),
        (["--host", NAME, "--extras", "tea"], 2, "--extras knows ui, whisper"),
    ):
        done = run(laptop, installed, "clusters", "setup", "x", *words)
        if "needs a value" not in said:
            assert said in done.error, done
        assert done.code == code, (words, done)
    assert laptop.settings.read_text() == "session: {hours: 2}\n"
