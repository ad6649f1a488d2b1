"""What the site lets one user and one session have at most: sessions, GPUs, hours, accounts, QoS."""

from __future__ import annotations

from launcher.errors import RequestError
from launcher.settings.schema import Profile, Settings


def within_limits(settings: Settings, living: int) -> None:
    """Raise RequestError where a user who has `living` sessions may not have one more."""
    most = settings.limits.sessions
    if most is not None and living >= most:
        raise RequestError(
            f"This site allows {_count(most, 'session')} of one user at a time, and you have {living}.",
            "Stop one first: launcher status, launcher stop ID.",
        )


def check_gpus(nodes: int, gpus: int, profile: Profile, settings: Settings) -> None:
    """Raise RequestError for more GPUs than the profile, or the site for one session, allows."""
    if profile.gpus_max is not None and gpus > max(profile.gpus_max, profile.gpus):
        raise RequestError(
            f'Profile "{profile.name}" has {_count(max(profile.gpus_max, profile.gpus), "GPU")} on a node, not {gpus}.',
            "Ask for fewer, or choose another profile.",
        )
    most = settings.limits.gpus
    if most is not None and nodes * gpus > most:
        raise RequestError(
            f"This site allows {_count(most, 'GPU')} for one session, not {nodes * gpus}.",
            "Ask for fewer, or choose a smaller profile.",
        )


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
