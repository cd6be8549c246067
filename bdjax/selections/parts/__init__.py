"""What selections share."""
