"""Small worlds in which the truth is known: effects that elsewhere take GPU hours appear here in seconds."""
