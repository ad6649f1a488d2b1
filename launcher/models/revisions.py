"""Which of one repository's snapshots is at a revision, and the words for those that are not."""

from __future__ import annotations

import re
from collections.abc import Iterator

from launcher.models.folders import HUB, Held, ref_at

_SHORT_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_NO_REVISIONS = "it is a plain folder, which has no revisions"


def by_revision(copies: list[Held], revision: str | None) -> Iterator[tuple[Held, str | None]]:
    """The copies in one folder, the wanted one first, each with the reason why it is not at `revision`."""
    commits = [copy for copy in copies if copy.layout == HUB]
    chosen, why = choose(commits, revision)
    if chosen is not None:
        yield chosen, None
    for copy in commits:
        if copy != chosen:
            yield copy, why or f"it is another revision{called(copy)}"
    for copy in copies:
        if copy.layout != HUB:
            yield copy, _NO_REVISIONS if revision is not None else None


def choose(commits: list[Held], revision: str | None) -> tuple[Held | None, str | None]:
    """Of one repository's snapshots the one at `revision` (default: main), else the reason why there is none."""
    if len(commits) == 1 and commits[0].commit is None:
        return commits[0], None  # none at all, or closed: the check of the files says it
    if not commits:
        return None, None
    at = ref_at(commits[0].path.parent.parent, revision or "main")
    if at is None and revision is None:
        if len(commits) == 1:
            return commits[0], None
        return None, "it has several commits and no branch main"
    begins = at or (revision if revision and _SHORT_COMMIT.fullmatch(revision) else None)
    found = [copy for copy in commits if begins and copy.commit and copy.commit.startswith(begins)]
    if len(found) == 1:
        return found[0], None
    if found:
        return None, f"several of its commits begin with {begins}"
    if at is not None:
        return None, f'its "{revision or "main"}" is at commit {at[:7]}, which is not there'
    return None, f'it is not at revision "{revision}"'


def commits_words(copies: list[Held]) -> str:
    """`Here are: 0123456 (main), 89abcde.`; empty where no copy has a commit."""
    shown = [f"{copy.commit[:7]}{called(copy)}" for copy in copies if copy.commit is not None]
    if not shown:
        return ""
    more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""
    return f"Here are: {', '.join(shown[:5])}{more}."


def called(copy: Held) -> str:
    """The branches and tags of a copy in brackets, with a blank before; empty where it has none."""
    return f" ({', '.join(copy.refs[:3])})" if copy.refs else ""
