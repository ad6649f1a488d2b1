"""Which weights: from the name that a user types to one snapshot directory at one commit."""
