"""The front door of a session: checks the key on every route and streams to the engine and the page.

`server.Gateway` is the whole of it; `keys`, `routes` and `usage` hold what the rest of the launcher hands in or reads.
"""
