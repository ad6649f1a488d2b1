"""Files and batches at an endpoint: which models a key may name in them, and which clusters there are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from launcher.batch.files import Bounds
from launcher.batch.http import BatchAPI
from launcher.batch.passes import Passes
from launcher.fleet.front import EndpointFront
from launcher.fleet.paths import same_framework
from launcher.gateway.keys import Holder
from launcher.settings.schema import Caps


def batch_api(
    folder: Path, passes: Passes, front: EndpointFront, url: Callable[[], str], caps: Caps
) -> BatchAPI:
    """The files and batches in `folder` of the endpoint at `url`, whose requests go through its own front."""

    def models(holder: Holder) -> set[str]:
        return {name for model in front.models(holder) for name in (model.name, *model.served)}

    def knows(holder: Holder, cluster: str, framework: str) -> bool:
        wanted = same_framework(framework)
        return any(cluster in one.clusters and one.framework == wanted for one in front.models(holder))

    bounds = Bounds.of(caps.batch_file_gb, caps.batch_files_gb)
    touch = front.usage.touch
    return BatchAPI(
        folder, passes, url=url, touch=touch, models=models, knows=knows, bounds=bounds, by_cluster=True
    )
