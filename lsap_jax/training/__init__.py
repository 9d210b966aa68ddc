"""What a training run is made of: optimiser, schedules, critics, losses, state."""
