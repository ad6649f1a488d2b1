"""The JSON Schema that editors read says of a site's file what the launcher says, as far as a schema can."""

from __future__ import annotations

import importlib
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from launcher.cli import main
from launcher.errors import SettingsError
from launcher.settings.files import read_yaml
from launcher.settings.layers import mistakes_in
from tests.markdown import ROOT, blocks
from tests.unit.broken import SOUND, Broken, broken_sites

SHIPPED = ROOT / "launcher" / "settings" / "site.schema.json"
EXAMPLE = ROOT / "scripts" / "site.yml"
# The published validator, in the dialect that the schema names.
jsonschema: Any = importlib.import_module("jsonschema")


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = json.loads(SHIPPED.read_text(encoding="utf-8"))
    of = jsonschema.validators.validator_for(schema)
    of.check_schema(schema)
    return of(schema)


def said(validator: Any, text: str) -> list[str]:
    return [error.message for error in validator.iter_errors(read_yaml(text))]


def test_the_example_passes_as_it_is_and_with_its_examples(validator: Any) -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    assert said(validator, text) == []
    assert said(validator, re.sub(r"^#(?! \S)", "", text, flags=re.MULTILINE)) == []


def test_the_packaged_defaults_pass(validator: Any) -> None:
    assert said(validator, (SHIPPED.parent / "defaults.yml").read_text(encoding="utf-8")) == []


def test_the_examples_of_the_documentation_pass(validator: Any) -> None:
    page = ROOT / "docs" / "site.md"
    texts = [block.text for block in blocks(page, "yaml") if block.kind != "not ours"]
    assert len(texts) >= 4
    assert [message for text in texts for message in said(validator, text)] == []


def parses(broken: Broken) -> bool:
    try:
        read_yaml(broken.text)
    except SettingsError:
        return False
    return True


CASES = [broken for broken in broken_sites() if parses(broken)]


@pytest.mark.parametrize("broken", [broken for broken in CASES if broken.schema], ids=str)
def test_what_the_launcher_refuses_an_editor_marks(validator: Any, broken: Broken) -> None:
    assert said(validator, broken.text)


@pytest.mark.parametrize("broken", [broken for broken in CASES if not broken.schema], ids=str)
def test_what_a_schema_cannot_see_it_does_not_claim_to(validator: Any, broken: Broken) -> None:
    """Where one of these is marked after all, take `schema: false` away."""
    assert said(validator, broken.text) == []


def test_a_sound_file_is_sound_for_both(validator: Any, tmp_path: Path) -> None:
    text = f"""{SOUND}    gpus_max: 4
    accounts: [phys]
    hours_max: 12
environments:
  vllm: {{kind: container, image: /a.sif, engines: [vllm], env: {{A: 1}}}}
  launcher: null
catalog:
  m: {{id: org/m, profiles: [small], environment: vllm}}
  tiny-chat: {{hidden: true}}
  simulated: null
limits: {{sessions: 3, gpus: null}}
form: {{hide: [revision], live: false}}
session:
locks: [session.hours, form]
"""
    site = tmp_path / "site.yml"
    site.write_text(text)
    assert mistakes_in(site) == []
    assert said(validator, text) == []


def test_it_says_what_a_key_means(validator: Any) -> None:
    profile = validator.schema["properties"]["profiles"]["additionalProperties"]["properties"]
    assert profile["gpus"]["description"] == "GPUs per node (`--gres=gpu:…`)."


def test_the_command_prints_what_is_shipped(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema"]) == 0
    assert capsys.readouterr().out == SHIPPED.read_text(encoding="utf-8")


def test_the_example_names_the_schema_where_an_install_has_it() -> None:
    first = EXAMPLE.read_text(encoding="utf-8").splitlines()[0]
    assert first == "# yaml-language-server: $schema=current/site.schema.json"
    assert "site.schema.json" in (ROOT / "scripts" / "install.sh").read_text(encoding="utf-8")
    assert os.access(SHIPPED, os.R_OK)
