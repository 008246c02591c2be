"""What a plugin is: its class, its hooks, how it is found, and the errors for a faulty one."""
