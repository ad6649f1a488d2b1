"""Real Chromium, through a real Apache, on the real page."""
