"""The episode loop and the generation engine, for PPO and evaluation alike."""
