"""What takes an activation's place, and where."""
