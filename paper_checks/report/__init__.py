"""What people read of a run of the battery."""
