"""The command line: it parses, makes one call, renders. No decisions."""
