"""`python -m launcher.whisper`."""

from __future__ import annotations

from launcher.whisper.serve import main

main()
