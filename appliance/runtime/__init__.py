"""What runs a model server: drivers, engine profiles, containment. Knows no fleet and no bundle."""
