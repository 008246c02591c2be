"""What made the starter set: prompts, answers drawn from the default model, repairs, and the choice of rows."""
