"""What the doctor makes of odd sites: proposals that are always right YAML, paths that others cannot read."""

from __future__ import annotations

import json
import os
import pwd
import re
import tempfile
import threading
import urllib.request
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from launcher.doctor.checks import FAIL, OK, WARN
from launcher.doctor.folders import check_model_folders
from launcher.doctor.places import check_app, check_sessions
from launcher.doctor.portal import check_cluster_ids, check_portal
from launcher.doctor.proposal import proposal, write
from launcher.doctor.readable import check_readable, closed_to_others
from launcher.doctor.slurm import Known
from launcher.errors import SettingsError, StorageError
from launcher.sessions.mounts import file_system
from launcher.settings.layers import load, mistakes_in
from launcher.settings.schema import GPU_TYPE, TOKEN, Network, Settings
from tests.unit.slurm_known import node, partition, slurm


def proposed(there: Known, folder: Path, *ondemand: str) -> Settings:
    file = folder / "site.yml"
    file.write_text(proposal(there, ondemand), encoding="utf-8")
    assert mistakes_in(file) == []
    return load({"LAUNCHER_SITE": str(file), "LAUNCHER_CONFIG": os.devnull})


def test_a_proposal_for_an_ordinary_site(tmp_path: Path) -> None:
    there = slurm(
        [node("c1", "std"), *(node(f"g{i}", "gpu", {"h100": 4}) for i in range(3)), node("l1", "gpu", {"l40s": 2})],
        partition("std", default=True, hours_max=168.0),
        partition("gpu", accounts=("physics", "no"), qos=("normal",), preempted=True),
    )  # fmt: skip
    settings = proposed(there, tmp_path, "hpc")
    assert list(settings.profiles) == ["std", "gpu-l40s", "gpu-h100"]  # the small ones first
    assert settings.clusters["main"].ondemand == ("hpc",)
    assert (settings.profiles["std"].cpus, settings.profiles["std"].hours_max) == (8, 168)
    h100 = settings.profiles["gpu-h100"]
    assert (h100.gpus, h100.gpus_max, h100.cpus, h100.memory_gb) == (1, 4, 16, 128)
    assert (h100.hours, h100.hours_max) == (4, 24)
    assert (h100.accounts, h100.qos_choices) == (("physics", "no"), ("normal",))
    assert settings.profiles["gpu-l40s"].gpu_memory_gb == 48
    lines = proposal(there).splitlines()
    assert lines[0] == "# yaml-language-server: $schema=current/site.schema.json"
    assert (
        lines[lines.index("  gpu-h100:") - 1] == "  # Jobs of this partition can lose their node to others."
    )
    assert lines[-1] == "#  folders: [/data/models]"
    assert not [line for line in lines if "gpu_memory_gb" in line and re.search(r"\d\.\d", line)]


def test_a_proposal_leaves_the_size_of_a_card_to_choose() -> None:
    text = proposal(slurm([node("g1", "gpu", {"a100": 4})], partition("gpu")))
    assert "    #gpu_memory_gb: 80   # 40, 64 or 80: nvidia-smi shows which" in text


@pytest.mark.parametrize(
    "name", ["no", "1e5", "0x1f", "-gpu", "a b", 'q"uote', "ünï", "x" * 200, "12:30", "~", "{}"]
)
def test_a_proposal_survives_odd_names(tmp_path: Path, name: str) -> None:
    plain = re.fullmatch(TOKEN, name) is not None  # others no setting could name
    gpus: dict[str | None, int] = {name: 2, None: 1}
    there = slurm([node("g1", "p", gpus, cpus=1, memory_mb=1)], partition("p", accounts=(name,)), name=name)
    settings = proposed(there, tmp_path)
    types = {name, None} if re.fullmatch(GPU_TYPE, name) else {None}
    assert {p.gpu_type for p in settings.profiles.values()} == types
    assert {p.accounts for p in settings.profiles.values()} == {(name,) if plain else ()}
    there = slurm([node("g1", name), node("g2", "gpu")], partition(name), partition("gpu"))
    found = {p.partition for p in proposed(there, tmp_path).profiles.values()}
    assert found == ({name, "gpu"} if plain else {"gpu"})


def test_what_is_closed_or_hidden_is_not_proposed(tmp_path: Path) -> None:
    nodes = [node("a", "old"), node("a", "admin"), node("a", "std")]
    there = slurm(nodes, partition("old", up=False), partition("admin", hidden=True), partition("std"))
    assert list(proposed(there, tmp_path).profiles) == ["std"]
    with pytest.raises(SettingsError, match="no partition that a session could use"):
        proposal(slurm([], partition("std")))


def test_a_proposal_overwrites_nothing(tmp_path: Path) -> None:
    file = tmp_path / "site.yml"
    write("first", file)
    with pytest.raises(StorageError, match="is there already"):
        write("second", file)
    assert file.read_text() == "first"
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    with pytest.raises(StorageError):
        write("second", link)
    assert not (tmp_path / "nowhere").exists()


def test_who_can_read_a_path(tmp_path: Path) -> None:
    # pytest's own folders are closed to others: a folder of our own that is not.
    top = Path("/tmp" if os.access("/tmp", os.W_OK) else tmp_path) / f"launcher-doctor-{os.getpid()}"
    folder = top / "a b" / "models"
    folder.mkdir(parents=True, mode=0o755)
    try:
        for path in (top, top / "a b", folder):
            path.chmod(0o755)
        assert closed_to_others(folder) is None
        assert check_readable("x", folder).verdict == OK
        folder.chmod(0o750)
        assert check_readable("x", folder).verdict == WARN
        folder.chmod(0o700)
        assert check_readable("x", folder).verdict == FAIL
        folder.chmod(0o755)
        (top / "a b").chmod(0o711)
        assert closed_to_others(folder) is None
        (top / "a b").chmod(0o700)
        closed = closed_to_others(folder)
        assert closed is not None
        assert closed.path == top / "a b"
        check = check_readable("x", folder / "none")
        assert check.verdict == FAIL
    finally:
        folder.rmdir()
        (top / "a b").rmdir()
        top.rmdir()


def test_a_folder_that_jobs_cannot_see(tmp_path: Path) -> None:
    assert file_system(Path("/proc/self")) == "proc"
    file = tmp_path / "site.yml"
    site = {"clusters": {"c": {}}, "profiles": {"p": {"cluster": "c"}}, "places": {"sessions": "/dev/shm/x"}}
    file.write_text(json.dumps(site))
    settings = load({"LAUNCHER_SITE": str(file), "LAUNCHER_CONFIG": os.devnull})
    checks = [check_sessions(settings), *check_model_folders(settings)]
    assert [(c.verdict, c.about) for c in checks] == [(WARN, "places.sessions"), (WARN, "models.folders")]
    assert "a compute node may not see it" in checks[0].says


def test_clusters_that_open_ondemand_knows(tmp_path: Path) -> None:
    file, clusters = tmp_path / "site.yml", tmp_path / "clusters.d"
    site = {
        "clusters": {"main": {"ondemand": ["hpc", "hpc-old"]}, "other": {}, "here": {"scheduler": "local"}},
        "profiles": {"p": {"cluster": "main"}},
    }
    file.write_text(json.dumps(site))
    settings = load({"LAUNCHER_SITE": str(file), "LAUNCHER_CONFIG": os.devnull})
    assert [c.verdict for c in check_cluster_ids(settings, clusters)] == [WARN]
    clusters.mkdir()
    for name in ("hpc.yml", "other.yaml", ".hpc-old.yml", "hpc-old.yml.bak"):
        (clusters / name).touch()
    found = {c.about: c for c in check_cluster_ids(settings, clusters)}
    assert found["clusters.main.ondemand"].verdict == FAIL
    assert "has no cluster hpc-old." in found["clusters.main.ondemand"].says
    assert found["clusters.other.ondemand"].verdict == OK


def test_a_folder_that_is_closed_names_whom_to_ask(tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="launcher doctor "))  # pytest's own folders are closed to others
    try:
        folder.chmod(0o700)
        assert check_readable("x", folder).fix == f"chmod a+rX {folder}"
        folder.chmod(0o644)
        assert check_readable("x", folder).says == f"{folder} is closed to other users."
        if os.geteuid() == 0:
            owner = pwd.getpwall()[-1]
            os.chown(folder, owner.pw_uid, -1)
            os.seteuid(65534)
            try:
                check = check_readable("x", folder)
            finally:
                os.seteuid(0)
            assert check.fix == f"Ask {owner.pw_name}, who owns it, for: chmod a+rX {folder}"
    finally:
        folder.rmdir()


def test_a_program_must_be_executable_by_all() -> None:
    folder = Path(tempfile.mkdtemp(prefix="launcher doctor "))
    program = folder / "python"
    program.touch()
    try:
        folder.chmod(0o755)
        program.chmod(0o744)
        assert check_readable("x", program).verdict == OK
        assert check_readable("x", program, program=True).verdict == FAIL
        program.chmod(0o755)
        assert check_readable("x", program, program=True).says == f"{program} can be run by all."
    finally:
        program.unlink()
        folder.rmdir()


def test_an_app_that_is_not_there(tmp_path: Path) -> None:
    assert [c.verdict for c in check_app(tmp_path / "none")] == [WARN]
    (check,) = check_app(tmp_path)
    assert check.verdict == FAIL
    assert "manifest.yml" in check.says


class Portal(ThreadingHTTPServer):
    """A portal that answers every request with the page of its login, or with this `code`."""

    def __init__(self, code: int = 200) -> None:
        self.code = code
        super().__init__(("127.0.0.1", 0), Login)

    def __enter__(self) -> Portal:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}).start()
        return self

    def __exit__(self, *rest: object) -> None:
        self.shutdown()
        self.server_close()


class Login(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Portal)
        self.send_response(self.server.code)
        self.end_headers()
        self.wfile.write(b"Log in, please.")

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


def test_a_portal_that_wants_a_login_is_asked_by_a_person() -> None:
    settings = load({"LAUNCHER_SITE": os.devnull, "LAUNCHER_CONFIG": os.devnull})
    settings = replace(settings, network=Network(bind="127.0.0.1", host="127.0.0.1"))
    asked: list[str] = []

    def person(text: str) -> None:
        # What the portal's proxy would make of the address once the person has logged in.
        asked.append(text)
        route, host, port, word = re.findall(r"/(node|rnode)/([^/]+)/(\d+)/(\S+)", text)[0]
        path = f"/{route}/{host}/{port}/{word}" if route == "node" else f"/{word}"
        urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=10).close()

    with Portal() as portal:
        url = f"http://127.0.0.1:{portal.server_address[1]}"
        assert [check.verdict for check in check_portal(url, settings, person)] == [OK, OK]
        assert len(asked) == 2
        # Nobody is there to ask.
        checks = check_portal(url, settings)
        assert [check.verdict for check in checks] == [WARN, WARN]
        assert "wants a login" in checks[0].says


def test_advice_is_about_the_part_that_failed() -> None:
    settings = load({"LAUNCHER_SITE": os.devnull, "LAUNCHER_CONFIG": os.devnull})
    settings = replace(settings, network=Network(bind="127.0.0.1", host="node7"))
    for code, words in ((404, "host_regex must match node7"), (503, "is there a way to node7?")):
        with Portal(code) as portal:
            node, rnode = check_portal(f"http://127.0.0.1:{portal.server_address[1]}", settings)
        assert (node.verdict, rnode.verdict) == (FAIL, WARN), "sessions need no rnode"
        assert f"HTTP {code}" in node.says
        assert node.fix is not None
        assert words in node.fix
        assert "rnode" not in node.fix
        assert rnode.fix == "It is not needed: sessions use node_uri."
    with Portal() as portal:
        url = f"http://127.0.0.1:{portal.server_address[1]}"
    (check,) = check_portal(url, settings)
    assert (check.verdict, check.says, check.fix) == (
        FAIL,
        f"Nothing listens at {url}.",
        "Is the address right?",
    )
    for file in ("/nowhere/ca.pem", os.devnull, "/a\0b"):
        (check,) = check_portal(url, settings, certificate=file)
        assert (check.about, check.fix) == ("portal", "Name a file in PEM format.")
