"""What a site, a user and the environment say before any request: read once, checked, with the origin of every value."""
