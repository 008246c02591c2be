"""Generation: engines that turn prompts into answers."""
