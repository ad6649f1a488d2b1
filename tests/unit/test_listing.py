"""`launcher models ls` says of hardware what a launch would do there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.cli import main
from tests.unit.fit_models import snapshot

SITE = """
clusters: {{c: {{}}}}
models: {{folders: [{models}], cache: {models}/none}}
places: {{cache: {models}/../cache}}
limits: {{gpus: 4}}
profiles:
  one: {{cluster: c, gpus: 1, gpu_type: a100, gpu_memory_gb: 80}}
  range: {{cluster: c, gpus: 1, gpus_max: 4, gpu_type: a100, gpu_memory_gb: 80}}
  many: {{cluster: c, gpus: 8, gpu_type: a100, gpu_memory_gb: 80}}
  nodes: {{cluster: c, gpus: 4, nodes: 2, gpu_type: a100, gpu_memory_gb: 80}}
catalog: {{eight: {{id: org/llama-8b, profiles: [range]}}}}
"""


def test_what_fits_is_what_a_launch_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models = tmp_path / "models"
    for name in ("llama-8b", "llama-70b"):
        snapshot(models / "org" / name, name)
    (tmp_path / "site.yml").write_text(SITE.format(models=models))
    monkeypatch.setenv("LAUNCHER_SITE", str(tmp_path / "site.yml"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert main(["models", "ls", "--json"]) == 0
    fits = {model["id"]: model["fits"] for model in json.loads(capsys.readouterr().out)["models"]}
    # On one GPU it does not start; of the range a launch takes as many as it needs;
    # eight GPUs are over the site's limit, a second node would stand idle, and the catalog keeps the other to one.
    assert fits == {
        "org/llama-70b": {
            "one": "does-not-fit",
            "range": "fits",
            "many": "does-not-fit",
            "nodes": "does-not-fit",
        },
        "org/llama-8b": {
            "one": "does-not-fit",
            "range": "fits",
            "many": "does-not-fit",
            "nodes": "does-not-fit",
        },
    }
