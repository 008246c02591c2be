"""What a run leaves and shows: metrics, checkpoints, progress, the closing panel, listeners."""
