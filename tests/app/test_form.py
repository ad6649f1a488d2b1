"""The form of three sites, as 3.1 and 4.2 render it: what a researcher can choose, and what no text can break."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.ondemand.plain import plain
from tests.app import sites
from tests.app.cards import copy_app
from tests.app.dashboard import form_page
from tests.app.ondemand import Form, OnDemand, OnDemandError, Version
from tests.conftest import needs_ruby

pytestmark = [pytest.mark.app, pytest.mark.timeout(120)]
CLUSTERS = ("test", "alpha_1", "alpha-2", "80gb", "gamma.x")
MakeSite = Callable[[dict[str, Any]], OnDemand]


@pytest.fixture(scope="module", params=["3.1", "4.2"])
def version(request: pytest.FixtureRequest) -> Version:
    found: Version = request.param
    return found


@pytest.fixture(scope="module")
def make_site(tmp_path_factory: pytest.TempPathFactory, version: Version) -> MakeSite:
    needs_ruby()

    def make(settings: dict[str, Any]) -> OnDemand:
        folder = tmp_path_factory.mktemp("site")
        if settings.get("models") == "made":
            sites.two_partitions_models(folder / "models")
            settings = settings | {"models": {"folders": [str(folder / "models")]}}
        (folder / "site.yml").write_text(yaml.safe_dump(settings, sort_keys=False))
        env = {
            "LAUNCHER": str(Path(sys.executable).parent / "launcher"),
            "LAUNCHER_SITE": str(folder / "site.yml"),
            "LAUNCHER_PLACES__SESSIONS": str(folder / "sessions"),
            "HOME": str(folder),
        }
        return OnDemand(copy_app(folder / "app"), version, env=env, clusters=CLUSTERS)

    return make


@pytest.fixture(scope="module")
def two_partitions(make_site: MakeSite) -> OnDemand:
    return make_site(sites.TWO_PARTITIONS | {"models": "made"})


@pytest.fixture(scope="module")
def two_partitions_form(two_partitions: OnDemand) -> Form:
    return two_partitions.form()


@pytest.fixture(scope="module")
def three_clusters(make_site: MakeSite) -> OnDemand:
    return make_site(sites.THREE_CLUSTERS)


@pytest.fixture(scope="module")
def three_clusters_form(three_clusters: OnDemand) -> Form:
    return three_clusters.form()


def _values(form: Form, **changed: str) -> dict[str, str]:
    """What a browser posts, as OnDemand.posted(), of a form that is rendered already."""
    return {name: field.posted for name, field in form.fields.items()} | changed


def _data(form: Form, field: str, value: str) -> dict[str, Any]:
    option = next(o for o in form.fields[field].options if o[1] == value)
    found: dict[str, Any] = option[2] if len(option) > 2 else {}
    return found


def test_models_stand_in_groups_by_what_they_do_with_their_size(two_partitions_form: Form) -> None:
    groups = {
        label: [option[0] for option in options]
        for label, options in two_partitions_form.fields["model"].groups
    }
    assert list(groups) == ["Chat", "Embeddings", "Speech to text", "Other models", "To try things out"]
    assert groups["Chat"][:2] == ["Llama, eight billion (15.0 GB)", "meta/Llama-8B-Chat (15.0 GB)"]
    assert groups["Embeddings"] == ["org/embed (130.0 MB)"]
    assert groups["Speech to text"] == [
        "org/whisper-small (512.0 MB)",
        "Systran/faster-whisper-large-v3 (3.0 GB)",
    ]
    assert groups["Other models"] == ["org/not-here (not on this disk)"]


def test_what_the_site_hides_and_what_is_broken_is_not_offered(two_partitions_form: Form) -> None:
    offered = {option[1] for option in two_partitions_form.fields["model"].options}
    assert not {"secret", "org/Hidden-8B", "org/cut-short"} & offered
    assert not any("<" in name or '"' in name for name in offered)
    assert {"llama", "quad-only", "meta/Llama-70B"} <= offered
    assert not {"meta/Llama-8B", "meta/Llama-8B-Chat"} & offered  # once, under the catalog's name


def test_a_model_that_fits_nowhere_is_marked_and_stays(two_partitions_form: Form) -> None:
    options = {option[1]: option for option in two_partitions_form.fields["model"].options}
    label, _, data = options["meta/Llama-400B"]
    assert label == "meta/Llama-400B (750.0 GB, too large here)"
    assert data == {}


def test_a_model_is_hidden_where_the_hardware_is_too_small(two_partitions_form: Form) -> None:
    assert _data(two_partitions_form, "model", "meta/Llama-70B") == {
        "data-option-for-profile-gpu-small": False,
        "data-option-for-profile-cpu": False,
    }
    assert set(_data(two_partitions_form, "model", "quad-only")) == {
        "data-option-for-profile-gpu-small",
        "data-option-for-profile-cpu",
    }


def test_hardware_has_its_limits_on_every_option(two_partitions_form: Form) -> None:
    field = two_partitions_form.fields["profile"]
    assert [option[0] for option in field.options[1:]] == [
        "gpu-small (1 × a100 80 GB, 16 cores, up to 24 h)",
        "gpu-quad (2 to 4 × a100 80 GB, 16 cores, up to 12 h)",
        "cpu (8 cores, 32 GB, up to 0.5 h)",
    ]
    assert field.posted == "auto"
    # They stay until the next option says other ones, so each has both.
    limits = [(o[2]["data-max-bc-num-hours"], o[2]["data-max-gpus"]) for o in field.options]
    assert limits == [(24, 4), (24, 1), (12, 4), (1, 1)]
    assert two_partitions_form.fields["gpus"].others["max"] == 4


def test_on_a_phone_the_first_line_of_the_hardware_is_not_cut(two_partitions_form: Form) -> None:
    field = two_partitions_form.fields["profile"]
    assert field.options[0][0] == "Choose for me"
    assert "the first that the model fits on" in field.help


def test_accounts_and_qos_are_lists_where_the_site_has_lists(two_partitions_form: Form) -> None:
    accounts = two_partitions_form.fields["account"]
    assert [option[1] for option in accounts.options] == ["", "physics", "chem_2"]
    # The hardware that is tried first needs one, and this one goes with all of it.
    assert accounts.posted == "physics"
    assert "data-option-for-profile-gpu-small" in _data(two_partitions_form, "account", "")
    assert "data-option-for-profile-gpu-quad" in _data(two_partitions_form, "account", "chem_2")
    assert [option[1] for option in two_partitions_form.fields["qos"].options] == ["", "normal", "long"]


@pytest.mark.parametrize("site", ["two_partitions", "three_clusters", "smallest"])
def test_the_untouched_form_is_never_refused(
    request: pytest.FixtureRequest, make_site: MakeSite, tmp_path: Path, site: str
) -> None:
    ood = make_site(sites.MINIMAL) if site == "smallest" else request.getfixturevalue(site)
    form = ood.form()
    for cluster in form.clusters:
        root = tmp_path / cluster
        submit = ood.submit(_values(form, cluster=cluster), root)
        assert submit["script"]["wall_time"] == 3600 * int(form.fields["bc_num_hours"].posted)
        plan = json.loads((root / "session.json").read_text())
        assert cluster.startswith(plan["cluster"]["name"])


@pytest.mark.parametrize(
    ("site", "model"),
    [
        ("two_partitions", "tiny-whisper"),
        ("two_partitions", "Systran/faster-whisper-large-v3"),
        ("three_clusters", "tiny-whisper"),
        ("smallest", "tiny-whisper"),
    ],
)
def test_nor_is_it_with_a_whisper_model(
    request: pytest.FixtureRequest, make_site: MakeSite, tmp_path: Path, site: str, model: str
) -> None:
    ood = make_site(sites.MINIMAL) if site == "smallest" else request.getfixturevalue(site)
    form = ood.form()
    for cluster in form.clusters:
        root = tmp_path / cluster
        # What form.js hides is posted where a site forbids scripts, and may say something.
        values = _values(form, cluster=cluster, model=model, context_length="32k")
        submit = ood.submit(values, root)
        plan = json.loads((root / "session.json").read_text())
        assert (plan["engine"], plan["model"]["id"]) == ("whisper", model)
        assert plan["environment"]["path"] is None  # the launcher's own
        assert cluster.startswith(plan["cluster"]["name"])
        assert submit["batch_connect"]["conn_params"][-1] == "engine"


def test_what_the_site_locks_is_limited_and_what_it_allows_is_there(two_partitions_form: Form) -> None:
    assert two_partitions_form.fields["idle_minutes"].others["max"] == 30
    assert two_partitions_form.fields["trust_remote_code"].posted == "0"


def test_no_field_is_required_that_a_tick_can_hide(two_partitions_form: Form) -> None:
    """A hidden field that is required and empty would block Launch without a word."""
    hidden = two_partitions_form.fields["advanced"].html_options["data"]
    names = {re.fullmatch(r"hide-(.*)-when-unchecked", key).group(1).replace("-", "_") for key in hidden}  # type: ignore[union-attr]
    shown = [field for field in two_partitions_form.fields.values() if field.id not in names]
    assert [f.id for f in shown if f.id != "cluster"] == [
        "model", "profile", "bc_num_hours", "account", "advanced",
    ]  # fmt: skip
    assert not any(two_partitions_form.fields[name].required for name in names)


def test_each_choice_of_the_form_becomes_a_good_plan(
    two_partitions: OnDemand, two_partitions_form: Form, tmp_path: Path
) -> None:
    usual = _values(two_partitions_form, model="simulated")
    plans = {}
    for number, changed in enumerate(
        (
            {"profile": "gpu-small", "account": "chem_2", "qos": "long"},
            {"profile": "gpu-quad", "gpus": "3", "model": "meta/Llama-70B", "context_length": "4096"},
            {"profile": "cpu", "bc_num_hours": "1"},
            {"model": "simulated", "account": "physics"},
        )
    ):
        root = tmp_path / str(number)
        submit = two_partitions.submit(usual | changed, root)
        plans[number] = (submit["script"], json.loads((root / "session.json").read_text()))
    script, plan = plans[0]
    assert {"--account=chem_2", "--qos=long", "--partition=gpu"} <= set(script["native"])
    assert script["wall_time"] == 4 * 3600
    script, plan = plans[1]
    assert plan["resources"]["gpus"] == 3
    assert plan["engine_args"][plan["engine_args"].index("--max-model-len") + 1] == "4096"
    assert plans[2][0]["wall_time"] == 1800  # the whole hour that the form shows is more than there is
    assert plans[3][1]["resources"]["profile"] == "gpu-small"


@pytest.mark.parametrize("version", ["4.2"], indirect=True)  # both give submit.yml.erb the same scope
@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"profile": "gpu-small", "account": ""}, 'Profile "gpu-small" needs an account to charge.'),
        (
            {"profile": "gpu-quad", "account": "chem_2"},
            'Account "chem_2" is not among those for profile "gpu-quad".',
        ),
        (
            {"profile": "gpu-quad", "gpus": "9"},
            "4 GPUs on a node, not 9.",
        ),
        ({"gpus": "1.5"}, 'GPUs must be a whole number, not "1.5".'),
        ({"context_length": "long"}, 'Context length must be a number, not "long".'),
        ({"model": "quad-only", "profile": "cpu"}, "Choose one of: gpu-quad."),
        ({"model": "meta/Llama-400B", "profile": "gpu-quad"}, "GB of GPU memory"),
        (
            {"model": "meta/Llama-70B", "profile": "gpu-small", "account": "physics"},
            "Choose one of: gpu-quad.",
        ),
        ({"custom_model": "meta/Llama-7B"}, "Did you mean meta/Llama-"),
        ({"idle_minutes": "500"}, "at most 30 idle minutes"),
    ],
)
def test_what_cannot_be_is_one_sentence_with_a_way_out(
    two_partitions: OnDemand,
    two_partitions_form: Form,
    tmp_path: Path,
    changed: dict[str, str],
    sentence: str,
) -> None:
    with pytest.raises(OnDemandError) as caught:
        two_partitions.submit(_values(two_partitions_form, model="llama") | changed, tmp_path / "staged")
    assert sentence in caught.value.message
    assert not (tmp_path / "staged" / "session.json").exists()


def test_three_clusters_are_a_choice_and_hardware_knows_its_own(three_clusters_form: Form) -> None:
    form = three_clusters_form
    assert form.clusters == ["alpha_1", "alpha-2", "80gb", "gamma.x"]
    assert "desk" not in {option[1] for option in form.fields["profile"].options}
    assert _data(form, "profile", "80gb_a100") == {
        "data-max-bc-num-hours": 4,
        "data-option-for-cluster-alpha-1": False,
        "data-option-for-cluster-alpha-2": False,
        "data-option-for-cluster-gamma.x": False,
    }
    assert "(cluster gamma.x, 1 × 24 GB, up to 2 h)" in form.fields["profile"].options[3][0]


@pytest.mark.parametrize("cluster", ["alpha-2", "80gb", "gamma.x"])
def test_hardware_left_open_is_chosen_on_the_cluster(
    three_clusters: OnDemand, three_clusters_form: Form, tmp_path: Path, cluster: str
) -> None:
    values = _values(three_clusters_form, model="simulated", cluster=cluster, bc_num_hours="1")
    three_clusters.submit(values, tmp_path / "staged")
    plan = json.loads((tmp_path / "staged" / "session.json").read_text())
    chosen = {"alpha-2": ("alpha", "A-1"), "80gb": ("80gb", "80gb_a100"), "gamma.x": ("gamma.x", "gamma.x")}
    assert (plan["cluster"]["name"], plan["resources"]["profile"]) == chosen[cluster]


def test_cluster_and_hardware_that_do_not_belong_together_are_refused(
    three_clusters: OnDemand, three_clusters_form: Form, tmp_path: Path
) -> None:
    values = _values(three_clusters_form, model="simulated", cluster="80gb", profile="A-1", bc_num_hours="1")
    with pytest.raises(OnDemandError, match='Profile "A-1" is not on cluster "80gb"'):
        three_clusters.submit(values, tmp_path / "staged")


@pytest.mark.parametrize("number", range(len(sites.TEXTS)))
def test_a_hostile_text_is_a_label_and_nothing_else(three_clusters_form: Form, number: int) -> None:
    text = sites.TEXTS[number]
    models = {option[1]: option[0] for option in three_clusters_form.fields["model"].options}
    assert models[f"hostile{number}"] == plain(text)
    profiles = {option[1]: option[0] for option in three_clusters_form.fields["profile"].options}
    assert profiles[f"hostile{number}"] == f"{plain(text)} (cluster alpha, up to 1 h)"


def test_no_hostile_text_gets_where_html_would_be_believed(
    three_clusters_form: Form, version: Version
) -> None:
    for field in three_clusters_form.fields.values():
        assert not any(plain(text) in field.help + field.label for text in sites.TEXTS if len(text) > 3)
    page = form_page(version, three_clusters_form)
    assert "<img" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert not Path("/tmp/launcher-was-here").exists()


def test_the_smallest_site_has_a_form(make_site: MakeSite, tmp_path: Path) -> None:
    ood = make_site(sites.MINIMAL)
    form = ood.form()
    assert [option[1] for option in form.fields["profile"].options] == ["all"]
    assert [label for label, _ in form.fields["model"].groups] == [""]
    assert "gpus" not in form.fields
    assert "qos" not in form.fields
    ood.submit(ood.posted(), tmp_path / "staged")
    assert json.loads((tmp_path / "staged" / "session.json").read_text())["resources"]["profile"] == "all"
