"""What is deployed: a meta-learned start that adapts to new tasks."""
