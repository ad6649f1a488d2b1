"""The fixtures of the integration tests: a front door with a simulated engine behind it."""

from tests.integration.conftest import front, start_engine, start_gateway

__all__ = ["front", "start_engine", "start_gateway"]
