"""What bundles are read from: folders, web servers, registries; at what pace."""
