"""The clusters of site.yml: whether each one's Slurm answers, and what it says of a job of each profile."""

from __future__ import annotations

from launcher.doctor.checks import FAIL, Check, fail, ok, warn
from launcher.doctor.profile import check_profile, gpu_memory
from launcher.doctor.slurm import Known, known
from launcher.errors import LauncherError, SchedulerError
from launcher.planning.soonest import soonest, span, when
from launcher.settings.cautions import cautions
from launcher.settings.schema import Cluster, Profile, Settings


def check_clusters(settings: Settings) -> list[Check]:
    """Every cluster, and every profile on it, ending with Slurm's own word on a job of that profile."""
    checks = [warn(odd.key, odd.says, odd.advice) for odd in cautions(settings)]
    for cluster in settings.clusters.values():
        mine = [p for p in settings.profiles.values() if p.cluster == cluster.name]
        at = f"clusters.{cluster.name}"
        if cluster.remote:
            checks += _another(at, cluster, mine, settings)
            continue
        checks += [check for profile in mine for check in gpu_memory(profile)]
        if cluster.scheduler == "local":
            checks.append(ok(at, "is this machine, without a queue."))
            continue
        try:
            there = known(cluster.ssh)
        except SchedulerError as error:
            checks.append(fail(at, error.message, error.hint or "Look at what Slurm says."))
            continue
        checks.append(_cluster(at, cluster, there))
        if not mine:
            checks.append(warn(at, "has no profile.", "Describe one, or take the cluster out."))
        for profile in mine:
            found = check_profile(profile, there, settings)
            checks += found
            if all(check.verdict != FAIL for check in found):
                checks.append(_word(profile, settings))
    return checks


def _another(at: str, cluster: Cluster, mine: list[Profile], settings: Settings) -> list[Check]:
    """A cluster whose own launcher plans: does it answer, and has it the profiles that are named here."""
    from launcher.api.remote.far import far_of

    try:
        there = [str(name) for name, _ in far_of(cluster.name, settings).ask("profiles")]
    except LauncherError as error:
        return [fail(at, error.message, error.hint or f"Run: launcher clusters setup {cluster.name}")]
    says = f"its launcher answers over ssh to {cluster.ssh}; its profiles: {', '.join(there) or 'none'}."
    return [
        ok(at, says),
        *(
            fail(
                f"profiles.{p.name}",
                f"is no profile of cluster {cluster.name}.",
                "Call it as it is called there.",
            )
            for p in mine
            if p.name not in there
        ),
    ]


def _cluster(at: str, cluster: Cluster, there: Known) -> Check:
    count = len({node.name for node in there.nodes})
    serving = len({node.name for node in there.nodes if node.in_service})
    version = there.configuration.get("SLURM_VERSION", "")
    where = f" over ssh to {cluster.ssh}" if cluster.ssh else ""
    says = f"Slurm {version} answers{where}: {serving} of {count} nodes in service."
    if not serving:
        return fail(at, says, "See sinfo -R for why.")
    return ok(at, says)


def _word(profile: Profile, settings: Settings) -> Check:
    at = f"profiles.{profile.name}"
    start = soonest(settings, [profile], shorter=False)[0]
    if start.trouble:
        return fail(at, start.trouble, "Compare the profile with a job of yours that Slurm takes.")
    if start.starts_at is None:
        return ok(at, "would be taken by Slurm.")
    return ok(at, f"would be taken by Slurm; {span(start.hours)} would start {when(start.starts_at)}.")
