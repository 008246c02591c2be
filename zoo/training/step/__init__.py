"""One optimizer step: losses, sums over micro-batches and processes, gradients, schedule, validation."""
