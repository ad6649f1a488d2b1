"""The fixtures of a session behind the portal: its engine and its gateway."""

from tests.integration.conftest import start_engine, start_gateway

__all__ = ["start_engine", "start_gateway"]
