"""The fixtures of a session behind the portal: its engine, its gateway, a short path for their sockets."""

from tests.integration.conftest import sockets, start_engine, start_gateway

__all__ = ["sockets", "start_engine", "start_gateway"]
