"""Models from the Hugging Face hub: what is there, who may have it, and its way onto this machine's disk."""
