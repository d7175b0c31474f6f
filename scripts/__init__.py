"""What makes the checkpoints, the pictures and the numbers of the documents."""
