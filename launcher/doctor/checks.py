"""One thing that was looked at, and the word of the doctor on it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

OK, WARN, FAIL = "ok", "warn", "FAIL"


@dataclass(frozen=True, slots=True)
class Check:
    """`about` names the thing (a key of site.yml, a folder), `says` is one sentence, `fix` the next step."""

    verdict: str
    about: str
    says: str
    fix: str | None = None

    def to_dict(self) -> dict[str, str | None]:
        """As plain data for JSON."""
        return asdict(self)


def ok(about: str, says: str) -> Check:
    """It is as it should be."""
    return Check(OK, about, says)


def warn(about: str, says: str, fix: str | None = None) -> Check:
    """It may be meant so, or could not be seen from here."""
    return Check(WARN, about, says, fix)


def fail(about: str, says: str, fix: str) -> Check:
    """Sessions will not work with it."""
    return Check(FAIL, about, says, fix)
