"""Open OnDemand's dashboard for the tests: its form, its Launch button and its card, without Rails.

Owns the Python side of an imitation that is meant never to be kinder than the real thing (facts: scopes, YAML
rules, staging, job script, sbatch options, card states, both for 3.1 and 4.2). The ERB is rendered by Debian's
Ruby in render.rb and ood/, with the real ActiveModel, ActiveSupport and Redcarpet, in a process of the user:
rendering.py.

    ood = OnDemand(app_dir, "4.2", env={...})          # env: what the site's web processes have
    ood.form().fields["model"].options                 # or an OnDemandError where the page would show an error
    values = ood.posted(model="tiny-chat")             # what a browser posts when the rest is left alone
    ood.submit(values, staged_root)                    # the hash of submit.yml.erb and the smart attributes
    ood.stage(values, data_root)                       # → the staged folder, everything rendered
    ood.job(values, data_root)                         # → .script, .sbatch (the options), .environment
    session = ood.launch(slurm, users.alice, values)   # a real job
    session.wait_for("Running").view_html              # a Card: state, connection, view, info and completed

Not imitated, and refused with `where == "harness"`: the templates vnc and vnc_container, smart attributes that ask
a site's services (auto_modules_*, global_*, ...). Dynamic forms are a browser's matter.
Needs Debian's ruby, ruby-activemodel, ruby-redcarpet and rsync.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tests.app.rendering import rendered
from tests.slurm import people
from tests.slurm.cluster import Cluster
from tests.slurm.people import Person

Version = Literal["3.1", "4.2"]


class OnDemandError(Exception):
    """What the user would see instead of the page: `where` it happened and the text."""

    def __init__(self, where: str, message: str) -> None:
        super().__init__(f"{where}: {message}")
        self.where = where
        self.message = message


@dataclass(frozen=True)
class Field:
    """One field as the form shows it; `posted` is what a browser sends when it is left alone."""

    id: str
    widget: str
    label: str
    help: str
    value: str
    posted: str
    required: bool
    display: bool
    options: list[list[Any]]
    # The same options in their groups, each with its label; one group without a label where there are none.
    groups: list[tuple[str, list[list[Any]]]]
    html_options: dict[str, Any]
    others: dict[str, Any]


@dataclass(frozen=True)
class Form:
    """The page of the form: shown fields in their order, and the fixed ones that no browser can change.

    With `preset` there is no page: the menu's link launches at once.
    """

    title: str
    description: str
    header: str
    preset: bool
    clusters: list[str]
    fields: dict[str, Field]
    fixed: dict[str, str]


@dataclass(frozen=True)
class JobRequest:
    """What would be given to sbatch."""

    staged_root: Path
    script: str
    sbatch: list[str]
    environment: dict[str, str]


@dataclass(frozen=True)
class Card:
    """A session's card at one poll. Each text is HTML, or None where the card does not show it."""

    state: str
    job_id: str
    connection: dict[str, Any] | None
    view_html: str | None
    info_html: str | None
    completed_html: str | None


@dataclass(frozen=True)
class OnDemandSession:
    """A launched session of one user: the card and what lies in the staged folder."""

    ood: OnDemand
    slurm: Cluster
    user: Person
    id: str
    job_id: str
    staged_root: Path
    data_root: Path

    def card(self) -> Card:
        """Poll the card."""
        env = self.slurm.env | {"OOD_DATAROOT": str(self.data_root)}
        try:
            shown = self.ood.ask("card", user=self.user, env=env, id=self.id)
        except OnDemandError as error:
            # The dashboard looks whether the file is there and then reads it; a session may end in between.
            if "No such file" not in str(error) or "connection.yml" not in str(error):
                raise
            shown = self.ood.ask("card", user=self.user, env=env, id=self.id)
        return Card(
            state=shown["state"],
            job_id=shown["job_id"],
            connection=shown["connection"],
            view_html=shown["view"],
            info_html=shown["info"],
            completed_html=shown["completed"],
        )

    @property
    def state(self) -> str:
        """Queued, Starting, Running, Suspended, Completed or Undetermined."""
        return self.card().state

    def wait_for(self, *states: str, timeout_s: float = 60) -> Card:
        """Poll until the card shows one of the states; the card's job output is in the error otherwise."""
        deadline = time.monotonic() + timeout_s
        while (card := self.card()).state not in states:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the card shows {card.state}, not {' or '.join(states)}\n{self.output()}")
            time.sleep(0.3)
        return card

    def connection(self) -> dict[str, Any] | None:
        """What the dashboard reads from connection.yml; None unless Running."""
        return self.card().connection

    def view_html(self) -> str | None:
        """The rendered view.html.erb; None unless Running."""
        return self.card().view_html

    def info_html(self) -> str | None:
        """The rendered info.html.erb; None when the app has none."""
        return self.card().info_html

    def completed_html(self) -> str | None:
        """The rendered completed.html.erb; None unless Completed."""
        return self.card().completed_html

    def output(self) -> str:
        """The job's output.log so far."""
        log = self.staged_root / "output.log"
        return log.read_text(errors="replace") if log.exists() else ""

    def cancel(self) -> None:
        """The Cancel button."""
        self.slurm.run_as(self.user, ["scancel", self.job_id])


@dataclass(frozen=True)
class OnDemand:
    """The dashboard of one version, with one app and the clusters of its site."""

    app_dir: Path
    version: Version = "4.2"
    env: Mapping[str, str] = field(default_factory=dict)
    clusters: Sequence[str] = ("test",)
    # `batch_connect: basic:` of the cluster's own file: set_host, script_wrapper, ...
    cluster_config: Mapping[str, str] = field(default_factory=dict)
    token: str = "sys/inference"  # with a third word that sub-app of the site
    site_folder: Path | None = None  # /etc/ood/config/apps/inference, where the site has one

    def form(self, user: Person | None = None) -> Form:
        """The form as the user sees it."""
        shown = self.ask("form", user=user)
        fields = {entry["id"]: Field(**entry) for entry in shown["fields"]}
        return Form(
            shown["title"], shown["description"], shown["header"], shown["preset"],
            shown["clusters"], fields, shown["fixed"],
        )  # fmt: skip

    def posted(self, user: Person | None = None, **changed: str) -> dict[str, str]:
        """What a browser posts: every shown field, with the changed ones changed."""
        return {name: entry.posted for name, entry in self.form(user).fields.items()} | changed

    def submit(
        self, values: Mapping[str, str], staged_root: Path, user: Person | None = None
    ) -> dict[str, Any]:
        """The submit hash for these posted values; an error is what would stand above the form."""
        shown = self.ask("submit", user=user, values=dict(values), staged_root=str(staged_root))
        submit: dict[str, Any] = shown["submit"]
        return submit

    def stage(self, values: Mapping[str, str], data_root: Path, user: Person | None = None) -> Path:
        """Stage only (submit.yml.erb is not rendered); returns the staged folder below `data_root`."""
        env = {"OOD_DATAROOT": str(data_root)}
        shown = self.ask("stage", user=user, env=env, values=dict(values), id=str(uuid.uuid4()))
        return Path(shown["staged_root"])

    def job(self, values: Mapping[str, str], data_root: Path, user: Person | None = None) -> JobRequest:
        """Everything the Launch button does, up to but without calling sbatch."""
        env = {"OOD_DATAROOT": str(data_root)}
        shown = self.ask("launch", user=user, env=env, values=dict(values), submit=False)
        root = Path(shown["staged_root"])
        return JobRequest(root, shown["script"], shown["sbatch"], shown["environment"])

    def job_script(self, values: Mapping[str, str], data_root: Path, user: Person | None = None) -> str:
        """The batch script of the template `basic` for these values."""
        return self.job(values, data_root, user).script

    def launch(self, slurm: Cluster, user: Person, values: Mapping[str, str]) -> OnDemandSession:
        """The Launch button: render, stage and submit a real job as `user`.

        The dashboard's data folder is a fresh one in her home, removed when the suite ends.
        """
        data_root = user.folder("ondemand-")
        env = slurm.env | {"OOD_DATAROOT": str(data_root)}
        shown = self.ask("launch", user=user, env=env, values=dict(values), submit=True)
        staged_root = Path(shown["staged_root"])
        return OnDemandSession(self, slurm, user, shown["id"], shown["job_id"], staged_root, data_root)

    def ask(
        self,
        action: str,
        *,
        user: Person | None = None,
        env: Mapping[str, str] | None = None,
        **arguments: object,
    ) -> dict[str, Any]:
        """One request to render.rb in a process of `user`; OnDemandError for what the page would show."""
        request = {
            "action": action,
            "version": self.version,
            "app": str(self.app_dir),
            "token": self.token,
            "portal": "ondemand",
            "clusters": list(self.clusters),
            "cluster_config": dict(self.cluster_config),
            "site_folder": str(self.site_folder) if self.site_folder else None,
        }
        person = user or people.myself()
        env = dict(self.env) | dict(env or {})
        answer = rendered(request | arguments, person, env, self.app_dir)
        if not answer["ok"]:
            raise OnDemandError(answer["where"], answer["message"])
        return answer
