"""What decides the environments' scores: one folder of helper modules per engine."""
