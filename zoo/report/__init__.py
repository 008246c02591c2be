"""Reports: pages of HTML that open from disk with the network off, with their plots inside."""
