"""What Open OnDemand's files call: the form it shows, the plan for what was posted, and the card of a session."""
