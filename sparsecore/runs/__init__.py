"""What a run leaves on disk, and the run itself."""
