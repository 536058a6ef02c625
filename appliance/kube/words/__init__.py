"""What the fleet and the site said, as custom resources of a cluster."""
