"""One endpoint over many sessions: which models may be started, where they run, who may ask them, what they used."""
