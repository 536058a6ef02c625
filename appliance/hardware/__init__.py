"""What this machine has. Readers at the edge, parsers pure, ``None`` for what nobody would say."""
