"""The contract of a layer: what torch and Pyro ask of it, derived once."""
