"""What other tools have written."""
