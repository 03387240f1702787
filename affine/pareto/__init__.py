"""Statistics: intervals, the validators' rules, paired evidence."""
