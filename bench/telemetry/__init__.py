"""The state of the machine around a measurement."""
