"""Inside the job: start the gateway, the engine and the page, say when a real answer came, and leave nothing behind."""
