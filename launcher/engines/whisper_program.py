"""Runs `launcher.whisper` on whatever Python starts this file, also one in which the launcher is not installed.

An environment of a site holds faster-whisper, Flask and gunicorn; the server itself comes from the launcher. Only this
package is made known to it, not what is installed beside the launcher: those packages may be for another Python.
"""

import importlib.util
import os
import runpy
import sys

PACKAGE = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))


def main() -> None:
    """Be `python -m launcher.whisper` with this file's arguments."""
    here = os.path.dirname(os.path.realpath(__file__))
    # Python puts a script's own folder first, where `import whisper` would find the engine of that name.
    sys.path[:] = [folder for folder in sys.path if os.path.realpath(folder or os.curdir) != here]
    spec = importlib.util.spec_from_file_location(
        "launcher", os.path.join(PACKAGE, "__init__.py"), submodule_search_locations=[PACKAGE]
    )
    if spec is None or spec.loader is None:
        sys.exit(f"launcher: {PACKAGE} is not a package")
    module = importlib.util.module_from_spec(spec)
    sys.modules["launcher"] = module
    spec.loader.exec_module(module)
    runpy.run_module("launcher.whisper", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
