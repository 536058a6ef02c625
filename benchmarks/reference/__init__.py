"""What a figure is measured against: the least that the same work could be."""
