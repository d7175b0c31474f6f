"""What takes an activation's place, and at which places."""
