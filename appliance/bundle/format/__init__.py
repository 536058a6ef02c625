"""What a bundle is: manifests, blobs in parts, deltas; read and written in one place."""
