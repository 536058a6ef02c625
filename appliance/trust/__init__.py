"""Who said so, and may they. Knows keys and signatures; not models, sockets or engines."""
