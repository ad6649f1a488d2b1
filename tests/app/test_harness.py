"""The imitation of the dashboard is as strict as the dashboard: the quirks that app authors trip over.

Each test changes one file of the sample app; the words after `quirk` in a name are those of the facts.
"""

from __future__ import annotations

import json
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.app.ondemand import OnDemand, OnDemandError, Version
from tests.conftest import needs_ruby
from tests.programs.front import wait_until
from tests.slurm.cluster import Cluster

pytestmark = pytest.mark.app
SAMPLE = Path(__file__).parent / "sample"
MakeApp = Callable[[dict[str, str]], OnDemand]


@pytest.fixture
def version() -> Version:
    """The dashboard's version; a test that wants both overrides it by `@BOTH`."""
    return "4.2"


BOTH = pytest.mark.parametrize("version", ["3.1", "4.2"])


@pytest.fixture
def app(tmp_path: Path, version: Version) -> MakeApp:
    """Makes a copy of the sample app with some files replaced."""
    needs_ruby()

    def make(files: dict[str, str]) -> OnDemand:
        folder = tmp_path / "sample"
        shutil.copytree(SAMPLE, folder)
        for name, text in files.items():
            (folder / name).write_text(text)
        return OnDemand(folder, version)

    return make


def _form(fields: str, extra: str = "") -> dict[str, str]:
    form = f"cluster: test\nform: [{fields}]\n{extra}"
    return {"form.yml.erb": form, "submit.yml.erb": "--- {}\n", "template/script.sh.erb": "#!/bin/bash\n"}


@BOTH
def test_the_form_is_read(app: MakeApp, version: Version) -> None:
    form = app({}).form()
    assert form.fields["engine"].options == [["Quick", "quick"], ["Slow", "slow"]]
    assert form.fields["engine"].help.strip() == "<p>Runs <strong>here</strong>.</p>"
    assert form.fields["engine"].posted == "quick"
    assert form.fields["flag"].posted == "0"
    assert form.fixed["fixed_one"] == "3"
    # The only cluster is a hidden field in 4.x and fixed in 3.1.
    assert ("cluster" in form.fixed) == (version == "3.1")


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("a: &x 1\nform: [engine]\nb: *x\n", "BadAlias: Unknown alias"),
        ("form: [engine]\nwhen: 2026-01-01\n", "DisallowedClass"),
        ("form: [engine]\nkey: :symbol\n", "DisallowedClass"),
        ("form: engine\n", "must be an array"),
        ("form: [engine]\ncluster: other\n", "clusters that do not exist"),
        ("form: [<%= context.engine %>]\n", "NameError"),
        ("form: [engine]\nattributes: {engine: {widget: select, options: [1, 2]}}\n", "missing options"),
        ("form: [engine]\nattributes: {engine: {widget: wheel}}\n", "undefined method `wheel'"),
        ("", "clusters that do not exist"),
    ],
)
def test_a_bad_form_makes_the_app_invalid(app: MakeApp, form: str, said: str) -> None:
    with pytest.raises(OnDemandError, match=said):
        app({"form.yml.erb": form}).form()


def test_the_form_knows_its_folder_and_the_user(app: MakeApp) -> None:
    ood = app(
        {"form.yml.erb": "form: [x]\nattributes: {x: {value: '<%= __dir__ %> <%= CurrentUser.uid %>'}}\n"}
    )
    assert ood.form().fields["x"].value.split()[0] == str(ood.app_dir)


@BOTH
def test_quirk_2_names_collide_with_ruby_methods(app: MakeApp, tmp_path: Path) -> None:
    ood = app(
        _form("model_name, count") | {"template/names.erb": "<%= context.model_name %>|<%= context.count %>"}
    )
    staged = ood.stage({"model_name": "mine", "count": "9"}, tmp_path / "data")
    fields = len(ood.form().fields) + len(ood.form().fixed)
    assert (staged / "names").read_text() == f"BatchConnect::SessionContext|{fields}"


@pytest.mark.parametrize("name", ["max", "pick"])
def test_quirk_2_some_names_break_the_form(app: MakeApp, name: str) -> None:
    with pytest.raises(OnDemandError) as error:
        app(_form(f"{name}, text")).form()
    assert error.value.where == "http 500"


def test_quirk_2_some_names_stop_the_launch(app: MakeApp) -> None:
    with pytest.raises(OnDemandError, match=r"display.*keywords that cannot be used"):
        app(_form("display")).submit({"display": "x"}, Path("/nowhere"))


def test_quirk_3_nothing_is_validated(app: MakeApp) -> None:
    ood = app({"submit.yml.erb": "chosen: <%= engine.to_json %>\nfixed: <%= fixed_one.to_json %>\n"})
    posted = ood.posted(engine="NOT_AN_OPTION", bc_num_hours="999", fixed_one="4", unknown="x")
    submit = ood.submit(posted, Path("/nowhere"))
    assert submit == {"script": {"wall_time": 999 * 3600}, "chosen": "NOT_AN_OPTION", "fixed": "3"}


def test_quirk_4_nothing_is_escaped_in_submit(app: MakeApp) -> None:
    ood = app({"submit.yml.erb": 'script: {native: ["--comment=<%= text %>"]}\n'})
    injected = ood.submit(ood.posted(text='x", "--job-name=INJECTED'), Path("/nowhere"))
    assert injected["script"]["native"] == ["--comment=x", "--job-name=INJECTED"]
    with pytest.raises(OnDemandError, match="quoted scalar at line 1") as error:
        ood.submit(ood.posted(text='"'), Path("/nowhere"))
    assert error.value.where == "save"


def test_quirk_4_nothing_is_escaped_in_templates(app: MakeApp, tmp_path: Path) -> None:
    ood = app({"template/name.erb": 'X="<%= context.text %>"'})
    staged = ood.stage(ood.posted(text="$(id)"), tmp_path / "data")
    assert (staged / "name").read_text() == 'X="$(id)"'


def test_quirk_5_a_password_is_kept_in_clear(app: MakeApp, tmp_path: Path) -> None:
    ood = app(_form("secret", "attributes: {secret: {widget: password_field}}\n"))
    kept = json.loads((ood.stage({"secret": "hunter2"}, tmp_path) / "user_defined_context.json").read_text())
    assert kept["secret"] == "hunter2"


def test_quirk_7_the_template_basic_makes_no_port_and_does_not_quote(app: MakeApp, tmp_path: Path) -> None:
    ood = app({})
    script = ood.job_script(ood.posted(), tmp_path / "data")
    assert 'echo -e "extra: $extra\\nhost: $host\\nport: $port\\npassword: $password"' in script
    assert "port=$" not in script
    order = [
        "create_yml () {",
        "clean_up () {",
        "source_helpers\n",
        "host=$(hostname)",
        "before.sh",
        "script.sh",
    ]
    places = [script.rindex(part) for part in [*order, "after.sh", "create_yml\n", "wait $", "clean_up\n"]]
    assert places == sorted(places)


def test_quirk_8_submit_sees_only_the_values(app: MakeApp) -> None:
    text = "nil: <%= [session, context, nowhere].inspect.to_json %>\nroot: <%= staged_root %>\n"
    ood = app({"submit.yml.erb": text})
    submit = ood.submit(ood.posted(), Path("/the/root"))
    assert (submit["nil"], submit["root"]) == ("[nil, nil, nil]", "/the/root")


def test_quirk_8_a_template_stops_at_an_unknown_name(app: MakeApp, tmp_path: Path) -> None:
    ood = app(
        {"template/a.erb": "<%= context.try(:nowhere).inspect %>", "template/b.erb": "<%= context.nowhere %>"}
    )
    with pytest.raises(OnDemandError, match="undefined method `nowhere'") as error:
        ood.stage(ood.posted(), tmp_path / "data")
    assert error.value.where == "stage"


def test_quirk_10_arrays_of_submit_replace_those_of_smart_attributes(app: MakeApp) -> None:
    files = _form("bc_num_slots", "") | {"submit.yml.erb": "script: {native: ['-p', 'gpu']}\n"}
    ood = app(files)
    assert ood.submit({"bc_num_slots": "3"}, Path("/nowhere"))["script"]["native"] == ["-p", "gpu"]
    ood.app_dir.joinpath("submit.yml.erb").unlink()
    assert ood.submit({"bc_num_slots": "3"}, Path("/nowhere"))["script"]["native"] == ["-N", 3]


def test_an_error_in_submit_stages_nothing(app: MakeApp, tmp_path: Path) -> None:
    ood = app({})
    with pytest.raises(OnDemandError) as error:
        ood.job(ood.posted(engine="refused"), tmp_path / "data")
    assert (error.value.where, error.value.message) == ("save", "The engine must be quick.")
    assert not (tmp_path / "data").exists()


@BOTH
def test_staging_keeps_what_submit_wrote_and_the_modes(app: MakeApp, tmp_path: Path) -> None:
    wrote = "<%- require 'fileutils'; FileUtils.mkdir_p(staged_root); staged_root.join('mine').write('x') -%>\n{}\n"
    ood = app({"submit.yml.erb": wrote})
    (ood.app_dir / "template").chmod(0o755)
    staged = ood.job(ood.posted(), tmp_path / "data").staged_root
    assert (staged / "mine").read_text() == "x"
    assert stat.S_IMODE(staged.stat().st_mode) == 0o755
    assert stat.S_IMODE((staged / "script.sh").stat().st_mode) & 0o100
    assert (staged / ".plain").exists()
    assert not (staged / ".dropped").exists()
    assert not list(staged.glob("**/*.erb"))


@BOTH
def test_free_text_reaches_sbatch_as_environment(app: MakeApp, tmp_path: Path) -> None:
    hostile = "a 'b' \"c\" $(id) `id` \\n %s <%= 1 %> é\n-x"
    ood = app({})
    job = ood.job(ood.posted(text=hostile), tmp_path / "data")
    assert job.environment == {"TEXT": hostile}
    assert job.sbatch[job.sbatch.index("--export") + 1] == "TEXT"
    assert not any("$(id)" in option for option in job.sbatch)


@BOTH
def test_a_smart_attribute_of_4_is_plain_text_in_31(app: MakeApp, version: Version) -> None:
    ood = app(_form("auto_cores, bc_num_nodes"))
    submit = ood.submit({"auto_cores": "4", "bc_num_nodes": "2"}, Path("/nowhere"))
    assert submit == ({} if version == "3.1" else {"script": {"cores": 4, "native": ["-N", 2]}})


def test_what_is_not_imitated_is_refused(app: MakeApp) -> None:
    with pytest.raises(OnDemandError) as error:
        app(_form("auto_modules_r")).form()
    assert error.value.where == "harness"


@BOTH
@pytest.mark.slurm
def test_a_real_session_from_launch_to_completed(app: MakeApp, slurm: Cluster, version: Version) -> None:
    alice = slurm.people.alice
    session = _shared(app({})).launch(slurm, alice, _shared_values("<i>it's</i> 1 < 2"))
    card = session.wait_for("Running")
    assert card.connection is not None
    assert card.connection["extra"] == "plain"
    assert isinstance(card.connection["port"], int)
    assert card.view_html is not None
    assert f":{card.connection['port']}</p>" in card.view_html
    assert f"missing nil, session {'nil' if version == '3.1' else session.id}" in card.view_html
    # A blank line and four spaces are a code block in Markdown.
    assert "<pre><code>&lt;b&gt;indented" in card.view_html
    assert card.info_html is not None
    assert "text <i>it's</i> 1 < 2" in card.info_html
    assert card.completed_html is None
    assert stat.S_IMODE((session.staged_root / "connection.yml").stat().st_mode) == 0o600
    # script.sh runs beside after.sh and connection.yml: Running may come before its first line.
    deadline = time.monotonic() + 60
    while not (session.staged_root / "text").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert (session.staged_root / "text").read_text() == "<i>it's</i> 1 < 2"
    assert f"session={session.id} job=nil" in session.output()
    session.cancel()
    done = session.wait_for("Completed")
    assert done.completed_html is not None
    assert "ended completed at 1" in done.completed_html
    assert (done.view_html, done.connection) == (None, None)


@pytest.mark.slurm
def test_quirk_1_a_requeued_job_shows_its_old_connection(app: MakeApp, slurm: Cluster) -> None:
    slow = "[[ ${SLURM_RESTART_COUNT:-0} == 0 ]] || sleep 60\nport=1000\npassword=abc\n"
    session = _shared(app({"template/before.sh": slow})).launch(slurm, slurm.people.alice, _shared_values())
    first = session.wait_for("Running").connection
    slurm.scontrol("requeue", session.job_id)
    # In the queue it is but for a second or two.
    wait_until(lambda: slurm.job(session.job_id)["Restarts"] == "1")
    assert session.wait_for("Running", timeout_s=60).connection == first
    session.cancel()


@pytest.mark.slurm
def test_quirk_6_a_failing_after_is_ignored_unless_it_cleans_up(app: MakeApp, slurm: Cluster) -> None:
    session = _shared(app({"template/after.sh": "false\n"})).launch(
        slurm, slurm.people.alice, _shared_values()
    )
    assert session.wait_for("Running", "Completed").state == "Running"
    session.cancel()


@pytest.mark.slurm
def test_quirk_6_clean_up_in_after_fails_the_job(app: MakeApp, slurm: Cluster) -> None:
    session = _shared(app({"template/after.sh": "clean_up 1\n"})).launch(
        slurm, slurm.people.alice, _shared_values()
    )
    session.wait_for("Completed")
    assert slurm.state(session.job_id) == "FAILED"
    assert not (session.staged_root / "connection.yml").exists()
    assert (session.staged_root / "cleaned").exists()


@pytest.mark.slurm
def test_quirk_7_a_key_of_digits_becomes_a_number(app: MakeApp, slurm: Cluster) -> None:
    files = {"template/before.sh": "port=1000\npassword=0x1f\n"}
    session = _shared(app(files)).launch(slurm, slurm.people.alice, _shared_values())
    connection = session.wait_for("Running").connection
    assert connection is not None
    assert connection["password"] == 31
    session.cancel()


@pytest.mark.slurm
def test_a_refusing_sbatch_is_shown(app: MakeApp, slurm: Cluster) -> None:
    ood = _shared(app({"submit.yml.erb": "script: {queue_name: nowhere}\n"}))
    with pytest.raises(OnDemandError, match="invalid partition specified") as error:
        ood.launch(slurm, slurm.people.alice, _shared_values())
    assert error.value.where == "submit"


def _shared(ood: OnDemand) -> OnDemand:
    # The user's process must be able to read the app, and pytest's own folders are closed to others.
    outside = Path(tempfile.gettempdir())
    for folder in [
        ood.app_dir,
        *(f for f in ood.app_dir.parents if f.is_relative_to(outside) and f != outside),
    ]:
        folder.chmod(folder.stat().st_mode | 0o055)
    return ood


def _shared_values(text: str = "hello") -> dict[str, str]:
    return {"cluster": "test", "engine": "quick", "text": text, "flag": "0", "bc_num_hours": "1"}
