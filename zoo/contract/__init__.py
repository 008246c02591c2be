"""What a plugin is: its class, its hooks, how it is found, and what is said when it is faulty."""
