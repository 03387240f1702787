"""Household games: generator, PDDL and the native engine."""
