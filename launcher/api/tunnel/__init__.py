"""`launcher connect`: a local address that leads to a session, wherever its job runs and however often it moves."""
