"""From a checked record to token ids: messages, chat template, tokens, the trained mask, a batch."""
