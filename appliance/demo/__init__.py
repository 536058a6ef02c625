"""All of it on one machine: hub, broker, node, gateway and a model, in a folder that goes again."""
