"""From a checked record to token ids: messages, chat template, tokens, the mask of trained tokens, a batch."""
