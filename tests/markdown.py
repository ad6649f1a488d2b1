"""What README.md and docs/ hold: code blocks with the comment above them, inline code, links and headings.

tests/integration/test_docs_*.py and tests/parity/test_guides.py run the blocks, unless a comment right above one says
otherwise: `<!-- not run: REASON -->`, `<!-- not ours: REASON -->` (another program's) or
`<!-- runs where there is: PROGRAM -->`.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))

_COMMENT = re.compile(r"<!-- (not run|not ours|runs where there is): (.+) -->")
_FENCE = re.compile(r"```(\w*)")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_HEADING = re.compile(r"#{1,6} (.+)")
# Where a command begins: at the start of a line or after something that ends one, with or without a path.
_COMMAND = re.compile(
    r"(?:^|[|;&(]|\bdo)\s*(?:\w+=\S+ +)*(?:[\w./~-]*/)?launcher +([^|;&)\n]*)", re.MULTILINE
)


@dataclass(frozen=True)
class Block:
    """One fenced block; `kind` and `why` are the comment above it, empty where there is none."""

    page: Path
    line: int
    language: str
    text: str
    kind: str = ""
    why: str = ""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path, *languages: str) -> list[Block]:
    """The fenced blocks of `page` in these languages (all, when none is named), in their order."""
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    begun: int | None = None
    for number, line in enumerate(lines):
        fence = _FENCE.fullmatch(line.strip())
        if fence is None:
            continue
        if begun is None:
            begun = number
            continue
        language = lines[begun].strip().removeprefix("```")
        comment = _COMMENT.fullmatch(lines[begun - 1].strip()) if begun else None
        text = "\n".join(lines[begun + 1 : number]) + "\n"
        kind, why = comment.groups() if comment else ("", "")
        found.append(Block(page, begun + 2, language, text, kind, why))
        begun = None
    assert begun is None, f"{page}: a block is not closed"
    return [block for block in found if not languages or block.language in languages]


def prose(page: Path) -> str:
    """The page without its blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def links(page: Path) -> list[str]:
    """The targets of links and pictures."""
    return _LINK.findall(prose(page))


def anchors(page: Path) -> set[str]:
    """What `#…` may name: the headings as GitHub writes them."""
    heads = [match[1] for line in prose(page).splitlines() if (match := _HEADING.fullmatch(line))]
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def commands(page: Path) -> list[tuple[str, list[str]]]:
    """Each `launcher …` command of the page: where it stands, and its arguments."""
    texts = [(str(block), block.text) for block in blocks(page, "sh", "text")]
    texts += [(f"{page.name} (inline)", code) for code in _INLINE.findall(prose(page))]
    found = []
    for where, text in texts:
        for match in _COMMAND.finditer(text.replace("\\\n", " ")):
            # Help texts explain a command after some spaces; what is read or written is the shell's.
            command = re.split(r"\s{2,}|\s\d?[<>]", match[1])[0]
            if "…" not in command:
                found.append((where, shlex.split(command, comments=True)))
    return found
