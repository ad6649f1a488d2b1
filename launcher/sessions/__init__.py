"""What a session is: one run of one model, owning one private directory whose files are the only registry."""
