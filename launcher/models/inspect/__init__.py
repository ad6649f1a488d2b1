"""What a model is, from config.json and the headers of its weights alone; no GPU, no network."""
