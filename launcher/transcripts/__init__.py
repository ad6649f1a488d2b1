"""Files in, transcripts out: which files, with which session, how far each one is."""
