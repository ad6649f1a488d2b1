"""What a site, a user and the environment say before any request, checked, with the origin of every value."""
