"""Air-gap bundles: made where there is a network, verified and taken in where there is none."""
