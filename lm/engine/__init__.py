"""What stands between Lightning and a task: strategies, which replica this is, Lightning's private names."""
