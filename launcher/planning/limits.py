"""What the site lets one user and one session have at most: sessions, GPUs, hours, accounts, QoS."""

from __future__ import annotations

import dataclasses

from launcher.errors import RequestError
from launcher.settings.schema import Profile, Settings


def within_limits(settings: Settings, living: int, new: int = 1) -> None:
    """Raise RequestError where a user who has `living` sessions may not have `new` more."""
    most = settings.limits.sessions
    if most is not None and living + new > most:
        more = f" and ask for {new} more" if new > 1 else ""
        raise RequestError(
            f"This site allows {_count(most, 'session')} of one user at a time, and you have {living}{more}.",
            "Stop one first: launcher status, launcher stop ID.",
        )


def check_nodes(asked: int | None, profile: Profile, engine: str, settings: Settings) -> None:
    """Raise RequestError for more nodes than there are, than the engine can use or than the site allows one model."""
    nodes = profile.nodes if asked is None else asked
    if nodes <= 1:
        return
    has = "" if asked is not None else f'Profile "{profile.name}" has {nodes} nodes, and '
    instead = (
        "Ask for --nodes 1." if asked is not None else "Choose another profile, or launch with --nodes 1."
    )
    if settings.clusters[profile.cluster].scheduler != "slurm":
        why = f"cluster {profile.cluster} is this machine alone: several nodes need Slurm."
    elif engine == "simulated":  # whoever reaches its processes can do nothing there
        return
    elif engine == "whisper":
        why = "a Whisper model runs on one."
    elif nodes > settings.allow.nodes:
        most = settings.allow.nodes
        why = f"this site allows one model {'one node' if most == 1 else f'at most {most} nodes'}"
        why += "." if asked is None else f", not {nodes}."
        if asked is not None:
            instead = f"Ask for --nodes {most}."
        instead += " The site can raise allow.nodes."
    else:
        return
    raise RequestError(f"{has}{why}" if has else f"{why[0].upper()}{why[1:]}", instead)


def nodes_weighed(profile: Profile, settings: Settings) -> int:
    """Over how many nodes a model is spread on `profile`: its own number where one model may have so many, else one."""
    on_slurm = settings.clusters[profile.cluster].scheduler == "slurm"
    return profile.nodes if on_slurm and profile.nodes <= settings.allow.nodes else 1


def check_gpus(nodes: int, gpus: int, profile: Profile, settings: Settings, *, asked: bool = True) -> None:
    """Raise RequestError for more GPUs than the profile, or the site for one session, allows.

    Where they were `asked` for, a profile's own number is the most there are unless it says another (`gpus_max`).
    """
    highest = profile.gpus_max or profile.gpus
    if asked and gpus > highest:
        has = _count(highest, "GPU") + " on a node" if highest else "no GPU"
        raise RequestError(
            f'Profile "{profile.name}" has {has}, not {gpus}.',
            "Ask for fewer, or choose another profile." if highest else "Choose another profile.",
        )
    if settings.limits.gpus is not None and nodes * gpus > settings.limits.gpus:
        raise too_many_gpus(nodes * gpus, settings)


def too_many_gpus(gpus: int, settings: Settings) -> RequestError:
    """The error for more GPUs than the site lets one session have."""
    return RequestError(
        f"This site allows {_count(settings.limits.gpus or 0, 'GPU')} for one session, not {gpus}.",
        "Ask for fewer, or choose a smaller profile.",
    )


def gpus_max(profile: Profile, settings: Settings) -> int:
    """The most GPUs on a node that a session on `profile` may have."""
    most = profile.gpus_max or profile.gpus
    if settings.limits.gpus is not None:
        most = min(most, settings.limits.gpus // profile.nodes)
    if settings.locked(f"profiles.{profile.name}.gpus"):
        most = profile.gpus
    return max(most, profile.gpus)


def within(profile: Profile, settings: Settings) -> Profile | None:
    """`profile` as the site's limits leave it, with fewer GPUs or hours; None where they rule it out."""
    limits = settings.limits
    if limits.gpus is not None and profile.nodes * profile.gpus > limits.gpus:
        return None
    choice = profile.gpus_max is not None and not settings.locked(f"profiles.{profile.name}.gpus")
    hours_max = profile.hours_max if limits.hours is None else min(profile.hours_max, limits.hours)
    return dataclasses.replace(
        profile,
        gpus_max=(gpus_max(profile, settings) or None) if choice else None,
        hours=None if profile.hours is None else min(profile.hours, hours_max),
        hours_max=hours_max,
    )


def needs_account(profile: Profile) -> bool:
    """Whether a request must name an account to charge, because the profile has none of its own."""
    return profile.account_required and profile.account is None and len(profile.accounts) != 1


def account_of(asked: str | None, profile: Profile) -> str | None:
    """The account to charge: asked for, or the profile's; raises RequestError where the profile's rule is not met."""
    account = asked or profile.account
    if account is None and profile.account_required:
        if len(profile.accounts) == 1:
            return profile.accounts[0]
        raise RequestError(
            f'Profile "{profile.name}" needs an account to charge.',
            f"Choose one of: {', '.join(profile.accounts)}."
            if profile.accounts
            else "Name it: --account NAME.",
        )
    return _chosen("Account", account, profile.account, profile.accounts, profile)


def qos_of(asked: str | None, profile: Profile) -> str | None:
    """The quality of service: asked for, or the profile's; raises RequestError for one that is not offered."""
    return _chosen("QoS", asked or profile.qos, profile.qos, profile.qos_choices, profile)


def _chosen(
    what: str, value: str | None, default: str | None, choices: tuple[str, ...], profile: Profile
) -> str | None:
    if value is not None and choices and value not in choices and value != default:
        raise RequestError(
            f'{what} "{value[:80]}" is not among those for profile "{profile.name}".',
            f"Choose one of: {', '.join(choices)}.",
        )
    return value


def _count(number: int, what: str) -> str:
    return f"at most {number} {what}{'' if number == 1 else 's'}"
